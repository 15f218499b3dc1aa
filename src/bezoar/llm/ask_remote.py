"""Asking an endpoint: what is stored before it is read, what is sent again, and when to stop.

All of it happens in the caller's thread, one pass after another; the transport's thread does only
HTTP. A pass
1. sends what has a free place, no claim by another process, and money;
2. waits until something has come back;
3. stores everything that is there in one transaction, and only then reads it.
Nothing new is sent while replies wait to be stored, so a kill loses only what is on the wire and
what arrived during one write.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bezoar.errors import UnfinishedError
from bezoar.llm.budget import REFUSED, Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.failures import Cause, cause_of, retry_after_s, status_inside
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.openai_format import NO_CHOICE, NO_LOGPROBS
from bezoar.llm.patience import Say, TimeOuts, grace_s, say_left, say_waiting
from bezoar.llm.schedule import Schedule
from bezoar.llm.transport import Attempt, Transport
from bezoar.llm.types import Reply, Request
from bezoar.stop import unbroken

NUM_DEAD = 10
"""After so many failed requests in a row, each with all its retries, an endpoint is dead."""
_NUM_REFUSED = 10
"""After so many refusals without any answer as many requests more are tried, then we stop."""
_MOST_DELAY_S = 120.0
_GO_ON = "and run the same command to go on"
_UNSENDABLE = "the prompt holds half of a surrogate pair, which cannot be sent"


class RemoteAsking:
    """One run over `requests` (by key). `run` returns when all are finished.

    `on_reply` takes each finished one: key, reply, and whether this process asked. `say` hears of
    time-outs, and of what is waited for at the end.
    """

    def __init__(
        self,
        backend: EndpointBackend,
        requests: dict[str, Request],
        journal: Journal,
        budget: Budget,
        on_reply: Callable[[str, Reply, bool], None],
        stage: str = "",
        say: Say = lambda text: None,
    ) -> None:
        self.backend, self.endpoint, self.journal = backend, backend.endpoint, journal
        self.budget, self.on_reply, self.stage = budget, on_reply, stage
        self.keys, self.requests = list(requests), list(requests.values())
        self._identity = backend.identity
        # asked of the journal before this run adds failures of its own
        failed = journal.tried(self.keys)
        self._failed_before = {i for i, key in enumerate(self.keys) if key in failed}
        # those that failed before come last, so that they delay nobody else's answer
        order = sorted(range(len(self.keys)), key=self._failed_before.__contains__)
        self.schedule = Schedule(order, self.endpoint.concurrency)
        self.say, self.time_outs = say, TimeOuts(self.endpoint, say)
        self._refusals: list[tuple[int, Reply, Cause]] = []  # whose fault is not known yet
        self._has_answered: bool | None = None  # whether the endpoint ever did; None: not known
        self._num_failed_in_a_row, self._slowest_s = 0, 0.0
        self._fault: UnfinishedError | None = None

    def run(self) -> None:
        """Ask until all is finished.

        UnfinishedError, after what is in flight has been stored, when the endpoint refuses everyone
        (401, 402, 403, 404, no connection), has failed ten requests in a row, or has refused ten,
        then ten from all over the list, and answered none. An interrupt waits for requests in
        flight too; a second one does not.
        """
        timeout_s, most = self.endpoint.timeout_s, min(self.endpoint.concurrency, len(self.keys))
        url, key = self.endpoint.url, self.backend.api_key
        transport = Transport(url, key, timeout_s=timeout_s, concurrency=most)
        try:
            while self.schedule.unfinished:
                with unbroken():
                    pause_s = self._send(transport)
                if self.schedule.in_flight or pause_s is not None:
                    transport.wait(pause_s)
                with unbroken():
                    self._store(transport.take())
                if self.schedule.stuck:
                    last_error = self._refusals[-1][1].error
                    what = f"{len(self._refusals)} requests were refused and none was answered"
                    fix = "correct the model, the extra settings or the server"
                    self._stop(f"{what}; the last one because {last_error}", f"{fix} {_GO_ON}")
                if self._fault is not None:
                    raise self._fault
            with unbroken():
                self._settle_refusals()
        except (KeyboardInterrupt, UnfinishedError):
            self._drain(transport)
            raise
        finally:
            transport.close()
            self.time_outs.tell(last=True)
            # also after an error: other processes may ask what was in flight, and spend its money
            for index in self.schedule.in_flight:
                self.journal.claims.release(self.keys[index])
            self.budget.end()

    def _drain(self, transport: Transport) -> None:
        """Send nothing more, and store what is in flight if it comes within the time of grace."""
        self.schedule.drop()
        seconds = grace_s(self.schedule, self._slowest_s, self.endpoint.timeout_s)
        say_waiting(self.say, len(self.schedule.in_flight), seconds)
        end = time.monotonic() + seconds
        while self.schedule.in_flight and (left_s := end - time.monotonic()) > 0:
            transport.wait(left_s)
            with unbroken():
                self._store(transport.take())
                self.schedule.drop()
        say_left(self.say, len(self.schedule.in_flight))
        with unbroken():
            self._settle_refusals()

    def _send(self, transport: Transport) -> float | None:
        """Send what may be sent now. The most seconds to wait then, None for no limit."""
        now = time.monotonic()
        # 1) Claim before the look into the journal: the other way round another process could
        #    answer and give its claim back in between, and the request would be paid for twice.
        claimed = []
        for index in self.schedule.due(now):
            if self.journal.claims.take(self.keys[index]):
                claimed.append(index)
            else:
                self.schedule.look_again(index, now)
        # 2) What another process has had answered is finished, and needs no money.
        unanswered = self._finish_known(claimed)
        # 3) Reserve money for the rest at once, in order: what it does not cover waits.
        bodies = self._bodies(unanswered)
        prices = [self.backend.most_usd(self.requests[index], body) for index, body in bodies]
        num_paid, others_usd = self.budget.reserve(prices) if bodies else (0, 0.0)
        for (index, _), usd in zip(bodies[:num_paid], prices, strict=False):
            self.schedule.send(index, now, usd)
        transport.send(bodies[:num_paid])
        self.time_outs.tell()
        unpaid = [index for index, _ in bodies[num_paid:]]
        self._postpone(unpaid, others_usd, now)
        return self.schedule.pause_s(now, more=not unpaid)

    def _finish_known(self, indices: list[int]) -> list[int]:
        """Finish what the journal has an answer to; the other indices."""
        requests = {self.keys[index]: self.requests[index] for index in indices}
        known = self.journal.look_up(requests, self.backend.read)
        for index in indices:
            if self.keys[index] in known:
                self._finish(index, known[self.keys[index]], asked_here=False)
        return [index for index in indices if self.keys[index] not in known]

    def _bodies(self, indices: list[int]) -> list[tuple[int, bytes]]:
        """What is sent; a request that cannot be sent is refused."""
        bodies = []
        for index in indices:
            try:
                bodies.append((index, self.backend.body(self.requests[index])))
            except UnicodeEncodeError:
                self._fail(index, Reply(finish="error", error=_UNSENDABLE, failure="refused"))
        return bodies

    def _postpone(self, unpaid: list[int], others_usd: float, now: float) -> None:
        # given back at once, so that a process with money may ask them meanwhile
        for index in unpaid:
            self.journal.claims.release(self.keys[index])
        if self.schedule.in_flight:  # an answer mostly costs less than was reserved
            self.schedule.put_back(unpaid)
        elif others_usd > 0:  # the same holds for the run's other processes
            for index in unpaid:
                self.schedule.look_again(index, now)
        elif unpaid:
            refused = Reply(finish="error", error=REFUSED, failure="budget")
            for index in [*unpaid, *self.schedule.drop()]:
                self._finish(index, refused, asked_here=False)

    def _store(self, attempts: Sequence[Attempt]) -> None:
        now = time.monotonic()
        for attempt in attempts:
            sent_s, usd = self.schedule.in_flight.pop(attempt.index)
            self.budget.release(usd)
            if attempt.status == 200:
                self._slowest_s = max(self._slowest_s, now - sent_s)
        # 1) Bodies first, all in one wait for the disk: they may have been paid for, and reading
        #    them can be repeated.
        came = [attempt for attempt in attempts if attempt.status == 200]
        entries = [self._entry(attempt.index, None, attempt.body) for attempt in came]
        numbers = self.journal.put_many(entries) if entries else []
        # 2) How they read is stored before it has any effect: a process that goes on after a kill
        #    acts on the same.
        replies = [self._read(attempt) for attempt in came]
        self.journal.settle(list(zip(numbers, replies, strict=True)))
        # 3) Answers before failures: an answer shows that a refusal is its request's own fault.
        for attempt, reply in zip(came, replies, strict=True):
            self._handle(attempt, reply)
        for attempt in attempts:
            if attempt.status != 200:
                self._handle_failure(attempt, attempt.status)

    def _read(self, attempt: Attempt) -> Reply:
        reply = self.backend.read(attempt.body, self.requests[attempt.index])
        if attempt.oversized:
            return replace(reply, error=attempt.error, failure="unreadable")
        if reply.error == NO_CHOICE and self._may_retry(attempt.index):
            return replace(reply, failure="passing")
        return reply

    def _handle(self, attempt: Attempt, reply: Reply) -> None:
        index, status = attempt.index, status_inside(attempt.body) if reply.passing else None
        if reply.error == NO_LOGPROBS:
            fix = "write `verdict: text` in the judge"
            self._stop(f"{NO_LOGPROBS}, which choices need", fix)
            self._finish(index, reply)
        elif status is not None:
            self._handle_failure(attempt, status)
        elif reply.passing:
            self._retry(attempt, reply, stored=True)
        else:
            self._num_failed_in_a_row = 0
            self._has_answered = self._has_answered or reply.finish != "error"
            self._finish(index, reply)
            if self._has_answered:
                self._settle_refusals()

    def _handle_failure(self, attempt: Attempt, status: int) -> None:
        """What follows from an attempt without an answer; `status` 0 is no HTTP answer at all."""
        index, detail = attempt.index, " ".join((attempt.body or attempt.error).split())[:200]
        error = f"the server answered {status}: {detail}" if status else attempt.error
        reply = Reply(finish="error", error=error, failure="passing")
        cause: Cause = "endpoint" if attempt.refused else "passing"
        if status:
            cause = cause_of(status, attempt.body)
        if cause == "passing":
            self._retry(attempt, reply)
        elif cause == "endpoint":
            self._stop(*self.endpoint.advice(status, detail))
            self._fail(index, reply)
        else:
            self._refusals.append((index, reply, cause))
            self._judge_refusals()

    def _may_retry(self, index: int) -> bool:
        return self.schedule.num_sent[index] <= self.endpoint.retries

    def _retry(self, attempt: Attempt, reply: Reply, *, stored: bool = False) -> None:
        """Send a request again later, or let it fail when it was sent as often as it may."""
        index = attempt.index
        if self._may_retry(index):
            self.journal.claims.release(self.keys[index])
            self.time_outs.num_resent += 1
            self.time_outs.num_timed_out += attempt.timed_out
            doublings = self.schedule.num_sent[index] - 1
            # the random factor spreads retries that failed together
            delay_s = self.endpoint.backoff_s * 2.0**doublings * (0.5 + random.random())
            delay_s = min(max(delay_s, retry_after_s(attempt.retry_after)), _MOST_DELAY_S)
            self.schedule.retry(index, time.monotonic() + delay_s)
            return
        # a body that was stored has been charged; a second entry would charge it again
        (self._finish if stored else self._fail)(index, reply)
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row == NUM_DEAD:
            what = f"{NUM_DEAD} requests in a row failed, the last one because {reply.error}"
            self._stop(what, f"see to the server {_GO_ON}")

    def _judge_refusals(self) -> None:
        """Settle refusals if the endpoint answers others; after many, try only a few more."""
        if self._has_answered is None:
            self._has_answered = self.journal.answered(self._identity)
        if self._has_answered:
            self._settle_refusals()
        elif sum(cause == "unclear" for _, _, cause in self._refusals) >= _NUM_REFUSED:
            self.schedule.probe(_NUM_REFUSED, self._failed_before)

    def _settle_refusals(self) -> None:
        # final if the endpoint answers others, else worth another run
        for index, reply, _ in self._refusals:
            self._fail(index, replace(reply, failure="refused") if self._has_answered else reply)
        self._refusals = []
        self.schedule.end_probe()

    def _fail(self, index: int, reply: Reply) -> None:
        self.journal.put_many([self._entry(index, reply)])
        self._finish(index, reply)

    def _finish(self, index: int, reply: Reply, *, asked_here: bool = True) -> None:
        self.journal.claims.release(self.keys[index])
        self.on_reply(self.keys[index], reply, asked_here)

    def _entry(self, index: int, reply: Reply | None, body: str | None = None) -> Entry:
        key, request, run = self.keys[index], self.requests[index], self.budget.run
        return Entry(key, request, reply, self._identity, run, self.stage, body)

    def _stop(self, what: str, fix: str) -> None:
        self._fault = self._fault or UnfinishedError(f"{self.endpoint.url}: {what}; {fix}.")
