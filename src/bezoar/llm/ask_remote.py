"""Asking an endpoint: what is stored before it is read, what is sent again, and when to stop.

All of it happens in the caller's thread, one pass after another; the transport's thread does only
HTTP. A pass
1. sends what has a free place, no claim by another process, and money;
2. waits until something has come back;
3. stores everything that is there in one transaction, and only then reads it.
Nothing new is sent while replies wait to be stored, so a kill loses only what is on the wire and
what arrived during one write.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bezoar.errors import UnfinishedError
from bezoar.llm.asking import Asking
from bezoar.llm.budget import REFUSED
from bezoar.llm.failures import status_inside
from bezoar.llm.openai_format import NO_CHOICE, NO_LOGPROBS
from bezoar.llm.over_ray import RayTransport
from bezoar.llm.patience import TimeOuts, grace_s, say_left, say_waiting
from bezoar.llm.refusals import Refusals
from bezoar.llm.replicas import Replica, Sent
from bezoar.llm.retries import Retries
from bezoar.llm.schedule import Schedule
from bezoar.llm.sent_batches import SentBatches
from bezoar.llm.transport import Attempt, Transport
from bezoar.llm.types import UNSENDABLE, Reply
from bezoar.stop import unbroken

_LOOK_S = 0.01


class RemoteAsking:
    """One run over requests, one HTTP request each. `run` returns when all are finished."""

    def __init__(self, asking: Asking) -> None:
        self.asking, self.backend, self.endpoint = asking, asking.backend, asking.backend.endpoint
        self.journal, self.budget, self.say = asking.journal, asking.budget, asking.say
        self.keys, self.requests = list(asking.requests), list(asking.requests.values())
        # asked of the journal before this run adds failures of its own
        failed = self.journal.tried(self.keys)
        self._failed_before = {i for i, key in enumerate(self.keys) if key in failed}
        # those that failed before come last, so that they delay nobody else's answer
        order = sorted(range(len(self.keys)), key=self._failed_before.__contains__)
        self.schedule, self.replicas = Schedule(order), self.backend.replicas
        self.replicas.begin()
        self.time_outs = TimeOuts(self.endpoint, self.replicas, self.say)
        parts = (self.backend.identity, self.schedule, self._failed_before, self._fail)
        self._refusals = Refusals(self.journal, *parts)
        self.retries = Retries(
            self.endpoint,
            self.replicas,
            self.schedule,
            self._refusals,
            self.time_outs,
            release=lambda index: self.journal.claims.release(self.keys[index]),
            fail=self._fail,
            finish=self._finish,
        )
        self._slowest_s = 0.0

    def run(self) -> None:
        """Ask until all is finished.

        UnfinishedError, after what is in flight has been stored, when the endpoint refuses everyone
        (401, 402, 403, 404, no connection), has failed ten requests in a row, or has refused ten,
        then ten from all over the list, and answered none. An interrupt waits for requests in
        flight too; a second one does not.
        """
        self._leave_batches()
        timeout_s, urls = self.endpoint.timeout_s, self.endpoint.urls
        most = min(self.endpoint.concurrency * len(urls), len(self.keys))
        key = self.backend.api_key
        # where it runs is all that differs
        open_transport = (
            self.backend.nodes.transport
            if self.backend.nodes
            else partial(Transport, path=self.backend.path)
        )
        transport = open_transport(urls[0], key, timeout_s=timeout_s, concurrency=most)
        try:
            while self.schedule.unfinished:
                with unbroken():
                    pause_s = self._send(transport)
                if self.schedule.in_flight or pause_s is not None:
                    transport.wait(pause_s)
                with unbroken():
                    self._store(transport.take())
                if self.schedule.stuck:
                    self.retries.stop(urls[0], *self._refusals.fault())
                if self.retries.fault is not None:
                    raise self.retries.fault
            with unbroken():
                self._refusals.settle()
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

    def _leave_batches(self) -> None:
        """UnfinishedError for requests that a server works on in batches: they are paid for."""
        sent, keys = SentBatches(self.journal, self.backend.identity), set(self.keys)
        if num := sum(len(keys & set(batch.keys)) for batch in sent.open()):
            what = f"{num} of {len(keys)} requests are in batches that nobody has fetched yet"
            fix = "put `batch` back into the endpoint and run the same command to fetch them"
            raise UnfinishedError(f"{self.endpoint.urls[0]}: {what}; {fix}.")

    @property
    def num_resent(self) -> int:
        """Requests that were sent again."""
        return self.time_outs.num_resent

    @property
    def num_timed_out(self) -> int:
        """Those of them whose time was over."""
        return self.time_outs.num_timed_out

    def _drain(self, transport: Transport | RayTransport) -> None:
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
            self._refusals.settle()

    def _send(self, transport: Transport | RayTransport) -> float | None:
        """Send what may be sent now. The most seconds to wait then, None for no limit."""
        now = time.monotonic()
        # 1) Claim before the look into the journal: the other way round another process could
        #    answer and give its claim back in between, and the request would be paid for twice.
        claimed = []
        for index in self.schedule.due(now, self.replicas.num_free(now)):
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
        # 4) To the least busy addresses that take them now.
        by_url: dict[str, list[tuple[int, bytes]]] = {}
        for (index, body), usd in zip(bodies[:num_paid], prices, strict=False):
            if replica := self._place(index, body, usd, now):
                by_url.setdefault(replica.url, []).append((index, body))
        for url, some in by_url.items():
            transport.send(some, url)
        self.time_outs.tell()
        unpaid = [index for index, _ in bodies[num_paid:]]
        self._postpone(unpaid, others_usd, now)
        num_free, free_s = self.replicas.num_free(now), self.replicas.wait_s(now)
        return self.schedule.pause_s(now, num_free, free_s, more=not unpaid)

    def _place(self, index: int, body: bytes, usd: float, now: float) -> Replica | None:
        """Where a request goes; None where no address takes it now, and it waits."""
        most = tokens = 0.0
        if self.endpoint.tokens_per_minute:
            most = self.backend.most_tokens(self.requests[index], body)
            tokens = self.replicas.expected_tokens(most)
        replica = self.replicas.choose(tokens, now, self.retries.last.get(index))
        if replica is None:
            self.journal.claims.release(self.keys[index])
            self.budget.release(usd)
            wait_s = self.replicas.wait_s(now)
            self.schedule.wait(index, now + (_LOOK_S if wait_s is None else max(wait_s, _LOOK_S)))
            return None
        replica.send(tokens, now)
        self.schedule.send(index, Sent(now, usd, most, tokens, replica, replica.num_in_flight))
        return replica

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
                self._fail(index, Reply(finish="error", error=UNSENDABLE, failure="refused"))
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
        sent = {attempt.index: self.schedule.in_flight.pop(attempt.index) for attempt in attempts}
        for attempt in attempts:
            self.budget.release(sent[attempt.index].usd)
            if attempt.status == 200:
                self._slowest_s = max(self._slowest_s, now - sent[attempt.index].at_s)
        # 1) Bodies first, all in one wait for the disk: they may have been paid for, and reading
        #    them can be repeated.
        came = [attempt for attempt in attempts if attempt.status == 200]
        entries = [self.asking.entry(self.keys[a.index], None, a.body) for a in came]
        numbers = self.journal.put_many(entries) if entries else []
        # 2) How they read is stored before it has any effect: a process that goes on after a kill
        #    acts on the same.
        replies = [self._read(attempt) for attempt in came]
        self.journal.settle(list(zip(numbers, replies, strict=True)))
        # 3) Answers before failures: an answer shows that a refusal is its request's own fault.
        for attempt, reply in zip(came, replies, strict=True):
            self._came_back(sent[attempt.index], reply, now)
            self._handle(attempt, reply, sent[attempt.index])
        for attempt in attempts:
            if attempt.status != 200:
                self._came_back(sent[attempt.index], None, now)
                self.retries.failed(attempt, attempt.status, sent[attempt.index])

    def _came_back(self, sent: Sent, reply: Reply | None, now: float) -> None:
        tokens = reply.prompt_tokens + reply.completion_tokens if reply else 0
        self.replicas.came_back(sent, tokens, now)

    def _read(self, attempt: Attempt) -> Reply:
        reply = self.backend.read(attempt.body, self.requests[attempt.index])
        if attempt.oversized:
            return replace(reply, error=attempt.error, failure="malformed")
        if reply.error == NO_CHOICE and self.retries.may_retry(attempt.index):
            return replace(reply, failure="passing")
        return reply

    def _handle(self, attempt: Attempt, reply: Reply, sent: Sent) -> None:
        index, status = attempt.index, status_inside(attempt.body) if reply.passing else None
        if reply.error == NO_LOGPROBS:
            fix = "write `verdict: text` in the judge"
            self.retries.stop(sent.replica.url, f"{NO_LOGPROBS}, which choices need", fix)
            self._finish(index, reply)
        elif status is not None:
            self.retries.failed(attempt, status, sent)
        elif reply.passing:
            self.retries.again(attempt, reply, sent, stored=True)
        else:
            self.retries.answered(sent)
            self._finish(index, reply)
            self._refusals.came(answered=reply.finish != "error")

    def _fail(self, index: int, reply: Reply) -> None:
        self.journal.put_many([self.asking.entry(self.keys[index], reply)])
        self._finish(index, reply)

    def _finish(self, index: int, reply: Reply, *, asked_here: bool = True) -> None:
        self.journal.claims.release(self.keys[index])
        self.asking.on_reply(self.keys[index], reply, asked_here)
