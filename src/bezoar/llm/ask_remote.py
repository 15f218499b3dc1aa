"""Asking an endpoint: what is sent when, what is stored before it is read, what is sent again, and
when to stop.

All of it happens in the caller's thread, one pass after another; the transport's thread does
nothing but HTTP. A pass
1. sends what may be sent: as many requests as have a place among those in flight, that no other
process is asking, that no
   process has had answered in the meantime, and that the budget allows;
2. waits until something has come back;
3. writes it to the journal, all that is there in one transaction, and only then reads it. So
nothing new is sent while replies wait to be stored, and a kill loses what is on the wire and what
came during one write.
"""

import heapq
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from bezoar.errors import EndpointError, UnfinishedError
from bezoar.llm.budget import REFUSED, Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.failures import advice, dead, meaning, none_answered, retry_after_s, status_inside
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.openai_format import NO_CHOICE, NO_LOGPROBS
from bezoar.llm.transport import Attempt, Transport
from bezoar.llm.types import Reply, Request
from bezoar.stop import unbroken

GRACE_S = 5.0
"""How long an interrupt waits at least for requests in flight; twice the slowest answer so far
where that is more."""
NUM_DEAD = 10
"""So many requests that fail in a row, each after all its retries, mean that the endpoint is
dead."""
# after so many refusals without a single answer only as many more are sent until there is one
_NUM_UNCLEAR = 10
_MOST_DELAY_S = 120.0
_RAMP = 256  # new connections a pass: a server's queue of connections is short
_RAMP_S = 0.01
_OTHERS_S = 0.2  # how often to look for what other processes have asked

_Keep = Callable[[str, Reply, bool], None]
"""Takes a finished request: key, reply, and whether this process asked."""


class RemoteAsking:
    """One run over `asked` (requests by key). `run` returns when every request is finished, and
    hands each to `keep`."""

    def __init__(
        self,
        backend: EndpointBackend,
        asked: dict[str, Request],
        *,
        journal: Journal,
        budget: Budget,
        keep: _Keep,
        stage: str = "",
    ) -> None:
        self.backend, self.endpoint, self.journal, self.budget, self.keep, self.stage = (
            backend,
            backend.endpoint,
            journal,
            budget,
            keep,
            stage,
        )
        self.keys, self.requests = list(asked), list(asked.values())
        self._identity = backend.identity
        # last, so that those which always fail keep nobody else from an answer
        self._tried = journal.tried(self.keys)
        self._waiting = deque(
            sorted(range(len(asked)), key=lambda index: self.keys[index] in self._tried)
        )
        self._retries: list[tuple[float, int]] = []  # (when, index), a heap
        self._elsewhere: deque[int] = deque()  # another process is asking these
        self._look_again_s = 0.0
        # index -> (when it was sent, the money put aside for it)
        self._flying: dict[int, tuple[float, float]] = {}
        self._tries: Counter[int] = Counter()
        # refused, and nothing was answered yet that would show whose fault it is
        self._unclear: list[tuple[int, Reply, str]] = []
        self._most_tried: int | None = None  # how many may be sent in all while that is in doubt
        self._num_failed_in_a_row = 0
        # whether the endpoint has ever answered; None is not known yet
        self._answered: bool | None = None
        self._slowest_s = 0.0
        self._fault: EndpointError | None = None

    def run(self) -> None:
        """Ask until all is finished.

        UnfinishedError, after what is in flight has been stored, when the endpoint refuses everyone
        (401, 402, 403, 404, no connection), has failed ten requests in a row, or has refused ten,
        then ten from all over the list, and answered none. An interrupt waits for requests in
        flight as well; a second one does not.
        """
        endpoint = self.endpoint
        transport = Transport(
            endpoint.url,
            self.backend.api_key,
            timeout_s=endpoint.timeout_s,
            concurrency=min(endpoint.concurrency, len(self.keys)),
        )
        try:
            while self._waiting or self._retries or self._elsewhere or self._flying:
                with unbroken():
                    pause_s = self._send(transport)
                if self._flying or pause_s is not None:
                    transport.wait(pause_s)
                with unbroken():
                    self._store(transport.take())
                    self._end_doubt()
                if self._fault is not None:
                    self._drain(transport)
                    raise self._fault
            with unbroken():
                self._settle_unclear()
        except KeyboardInterrupt:
            self._drain(transport)
            raise
        finally:
            transport.close()
            self._give_up()

    def _drain(self, transport: Transport) -> None:
        """Send nothing more, and store what is in flight if it comes within the time of grace."""
        self._waiting.clear()
        self._retries.clear()
        self._elsewhere.clear()
        end = time.monotonic() + min(max(GRACE_S, 2 * self._slowest_s), self.endpoint.timeout_s)
        while self._flying and (left := end - time.monotonic()) > 0:
            transport.wait(left)
            with unbroken():
                self._store(transport.take())
                self._retries.clear()
        with unbroken():
            self._settle_unclear()

    def _give_up(self) -> None:
        """Nothing is in flight any more: other processes may ask what is left, and spend what was
        put aside."""
        for index in self._flying:
            self.journal.claims.release(self.keys[index])
        self._flying.clear()
        self.budget.end()

    # 1. what may be sent

    def _send(self, transport: Transport) -> float | None:
        """Send what may be sent now; how long to wait for news at most, None for as long as it
        takes."""
        now = time.monotonic()
        if self._elsewhere and now >= self._look_again_s:
            self._waiting.extendleft(reversed(self._elsewhere))
            self._elsewhere.clear()
        picked: list[int] = []
        while self._retries and self._retries[0][0] <= now:
            picked.append(heapq.heappop(self._retries)[1])
        # a request that waits for its next attempt keeps its place, so that a server in trouble is
        # not asked for more and more
        free = self.endpoint.concurrency - len(self._flying) - len(self._retries) - len(picked)
        free = free if self._most_tried is None else min(free, self._most_tried - len(self._tries))
        for _ in range(min(free, _RAMP, len(self._waiting))):
            picked.append(self._waiting.popleft())
        blocked = self._send_claimed(transport, self._claimed(picked), now)
        times = [self._look_again_s - now] if self._elsewhere else []
        if not blocked:
            times += (
                [_RAMP_S]
                if self._waiting
                and len(self._flying) + len(self._retries) < self.endpoint.concurrency
                else []
            )
            times += [self._retries[0][0] - now] if self._retries else []
        return max(min(times), 0.0) if times else None

    def _claimed(self, picked: list[int]) -> list[int]:
        """Those of `picked` that are this process's to ask: not being asked by another one, and not
        answered since."""
        mine = [index for index in picked if self.journal.claims.take(self.keys[index])]
        taken = set(picked) - set(mine)
        if taken:
            self._elsewhere.extend(index for index in picked if index in taken)
            self._look_again_s = time.monotonic() + _OTHERS_S
        known = self.journal.look_up(
            {self.keys[index]: self.requests[index] for index in mine}, self.backend.read
        )
        for index in mine:
            if self.keys[index] in known:
                self._finish(index, known[self.keys[index]], paid=False)
        return [index for index in mine if self.keys[index] not in known]

    def _send_claimed(self, transport: Transport, mine: list[int], now: float) -> bool:
        """Send as many of `mine` as the budget allows; the rest waits, or is refused where nothing
        can come free. Whether any is left."""
        bodies: list[tuple[int, bytes]] = []
        for index in mine:
            try:
                bodies.append((index, self.backend.body(self.requests[index])))
            except UnicodeEncodeError:
                self._end(
                    index,
                    Reply(
                        finish="error",
                        error="the prompt holds half of a surrogate pair, which cannot be sent",
                        failure="refused",
                    ),
                )
        if not bodies:
            return False
        most = [self.backend.most_usd(self.requests[index], body) for index, body in bodies]
        count, others_usd = self.budget.reserve(most)
        for (index, _), usd in zip(bodies[:count], most, strict=False):
            self._flying[index] = (now, usd)
            self._tries[index] += 1
        transport.send(bodies[:count])
        left = [index for index, _ in bodies[count:]]
        for index in left:
            self.journal.claims.release(self.keys[index])
        if left and not self._flying and others_usd <= 0:
            for index in [*left, *(i for _, i in self._retries), *self._waiting, *self._elsewhere]:
                self._finish(
                    index, Reply(finish="error", error=REFUSED, failure="budget"), paid=False
                )
            self._waiting.clear()
            self._retries.clear()
            self._elsewhere.clear()
        # another process of this run holds money that may come free
        elif left and not self._flying:
            self._elsewhere.extend(left)
            self._look_again_s = now + _OTHERS_S
        else:
            self._waiting.extendleft(reversed(left))
        return bool(left)

    # 3. what has come back

    def _store(self, attempts: Sequence[Attempt]) -> None:
        """Write what servers sent to the disk, then read it."""
        now = time.monotonic()
        for attempt in attempts:
            sent, usd = self._flying.pop(attempt.index)
            self._slowest_s = max(self._slowest_s, now - sent if attempt.status == 200 else 0.0)
            self.budget.release(usd)
        came = [a for a in attempts if a.status == 200]
        numbers = (
            self.journal.put_many([self._entry(a.index, None, a.body) for a in came])
            if came
            else []
        )
        replies = [self._read(attempt) for attempt in came]
        self.journal.settle(list(zip(numbers, replies, strict=True)))
        for attempt, reply in zip(came, replies, strict=True):
            self._came(attempt, reply)
        for attempt in attempts:
            if attempt.status != 200:
                self._failed(attempt, attempt.status)

    def _read(self, attempt: Attempt) -> Reply:
        reply = self.backend.read(attempt.body, self.requests[attempt.index])
        if attempt.oversized:
            return replace(reply, error=attempt.error, failure="unreadable")
        if reply.error == NO_CHOICE and self._tries[attempt.index] <= self.endpoint.retries:
            return replace(reply, failure="passing")
        return reply

    def _came(self, attempt: Attempt, reply: Reply) -> None:
        """What follows from a reply that is stored."""
        index, inside = attempt.index, status_inside(attempt.body) if reply.passing else None
        if reply.error == NO_LOGPROBS:
            self._stop(
                UnfinishedError(
                    f"{self.endpoint.url}: {NO_LOGPROBS}, which choices need; write `verdict: text`"
                    " in the judge."
                )
            )
            self._finish(index, reply)
        elif inside is not None:
            self._failed(attempt, inside)
        elif reply.passing and self._tries[index] <= self.endpoint.retries:
            self._again(index, "")
        elif reply.passing:
            self._exhausted(index, reply)
        else:
            self._num_failed_in_a_row = 0
            self._answered = self._answered or reply.finish != "error"
            self._finish(index, reply)
            if self._answered and self._unclear:
                self._settle_unclear()

    def _failed(self, attempt: Attempt, status: int) -> None:
        """What follows from an attempt without an answer."""
        index, said = attempt.index, " ".join((attempt.body or attempt.error).split())[:200]
        what = (
            meaning(status, attempt.body)
            if status
            else "endpoint"
            if attempt.refused
            else "passing"
        )
        why = f"the server answered {status}: {said}" if status else attempt.error
        reply = Reply(finish="error", error=why, failure="passing")
        if (
            what == "passing"
            and self._tries[index] <= self.endpoint.retries
            and self._fault is None
        ):
            self._again(index, attempt.retry_after)
        elif what == "passing":
            self._exhausted(index, reply)
        elif what == "endpoint":
            self._stop(UnfinishedError(advice(self.endpoint, status, said)))
            self._end(index, reply)
        else:
            self._unclear.append((index, reply, what))
            self._judge_unclear()

    def _again(self, index: int, retry_after: str) -> None:
        """Send a request another time, later."""
        self.journal.claims.release(self.keys[index])
        delay_s = (
            self.endpoint.backoff_s * 2.0 ** (self._tries[index] - 1) * (0.5 + random.random())
        )
        delay_s = min(max(delay_s, retry_after_s(retry_after)), _MOST_DELAY_S)
        heapq.heappush(self._retries, (time.monotonic() + delay_s, index))

    def _exhausted(self, index: int, reply: Reply) -> None:
        """A request has failed for a passing reason as often as it may."""
        self._end(index, reply)
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row == NUM_DEAD:
            self._stop(UnfinishedError(dead(self.endpoint, NUM_DEAD, reply.error)))

    def _judge_unclear(self) -> None:
        """Refusals are their requests' own fault once the endpoint is known to answer others; many
        without an answer are not."""
        if self._answered is None:
            self._answered = self.journal.answered(self._identity)
        if self._answered:
            self._settle_unclear()
        elif (
            self._most_tried is None
            and sum(what == "unclear" for _, _, what in self._unclear) >= _NUM_UNCLEAR
        ):
            # the next ones from all over the list, as refusals may stand side by side, and such
            # that no earlier run has tried
            new = [index for index in self._waiting if self.keys[index] not in self._tried] or list(
                self._waiting
            )
            probes = dict.fromkeys(new[:: -max(len(new) // _NUM_UNCLEAR, 1)][:_NUM_UNCLEAR])
            self._waiting = deque(
                [*probes, *(index for index in self._waiting if index not in probes)]
            )
            self._most_tried = len(self._tries) + _NUM_UNCLEAR

    def _end_doubt(self) -> None:
        """Stop when all that may be sent while it is in doubt whose fault the refusals are has come
        back without an answer."""
        if (
            self._most_tried is not None
            and len(self._tries) >= self._most_tried
            and not self._flying
            and not self._retries
            and self._waiting
        ):
            self._stop(
                UnfinishedError(
                    none_answered(self.endpoint, len(self._unclear), self._unclear[-1][1].error)
                )
            )

    def _settle_unclear(self) -> None:
        """Write refusals down: final where the endpoint answers others."""
        for index, reply, _ in self._unclear:
            self._end(index, replace(reply, failure="refused") if self._answered else reply)
        self._unclear, self._most_tried = [], None

    def _end(self, index: int, reply: Reply) -> None:
        """A request fails without a body to be read."""
        self.journal.put_many([self._entry(index, reply)])
        self._finish(index, reply)

    def _finish(self, index: int, reply: Reply, *, paid: bool = True) -> None:
        self.journal.claims.release(self.keys[index])
        self.keep(self.keys[index], reply, paid)

    def _entry(self, index: int, reply: Reply | None, body: str | None = None) -> Entry:
        return Entry(
            self.keys[index],
            self.requests[index],
            reply,
            self._identity,
            self.budget.run,
            self.stage,
            body,
        )

    def _stop(self, fault: EndpointError) -> None:
        self._fault = self._fault or fault
