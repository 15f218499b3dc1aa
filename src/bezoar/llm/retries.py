"""What follows from an attempt without an answer: another one, another address, or the end."""

import random
import time
from collections import Counter
from collections.abc import Callable

from bezoar.errors import UnfinishedError
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.failures import Cause, cause_of, is_overload, retry_after_s
from bezoar.llm.patience import TimeOuts
from bezoar.llm.refusals import Refusals
from bezoar.llm.replicas import Replica, Replicas, Sent
from bezoar.llm.schedule import Schedule
from bezoar.llm.transport import Attempt
from bezoar.llm.types import Reply

NUM_DEAD = 10
"""After so many failed requests in a row, each with all its retries, an endpoint is dead; after so
many failed attempts an address is, while others answer."""
_MOST_DELAY_S = 120.0
_MOST_WAIT_S = 600.0
"""A server that asks for a longer wait (Retry-After) is left for another run."""
_MOST_DOUBLINGS = 3  # of the delay of a request that others crowded out
_GO_ON = "and run the same command to go on"


class Retries:
    """Sends requests again by the `schedule`, or ends them: `fail` takes those of which nothing is
    stored yet, `finish` the others; `release` gives back a claim. With a `fault` the run ends."""

    def __init__(
        self,
        endpoint: Endpoint,
        replicas: Replicas,
        schedule: Schedule,
        refusals: Refusals,
        time_outs: TimeOuts,
        *,
        release: Callable[[int], None],
        fail: Callable[[int, Reply], None],
        finish: Callable[[int, Reply], None],
    ) -> None:
        self.endpoint, self.replicas, self.schedule = endpoint, replicas, schedule
        self.refusals, self.time_outs = refusals, time_outs
        self._release, self._fail, self._finish = release, fail, finish
        self.fault: UnfinishedError | None = None
        self.last: dict[int, Replica] = {}
        """Where a request failed last."""
        # tries that are not the request's own: it was crowded out, or its address left out
        self._num_excused = Counter[int]()
        self._num_before: dict[int, int] = {}  # answers before the last failure of a request
        self._num_answered = self._num_failed_in_a_row = 0

    def answered(self, sent: Sent) -> None:
        """Note that a request needs no other attempt."""
        self._num_failed_in_a_row = sent.replica.num_failed_in_a_row = 0
        sent.replica.has_answered = True
        self._num_answered += 1
        sent.replica.window.answered(sent.num_in_flight)

    def failed(self, attempt: Attempt, status: int, sent: Sent) -> None:
        """What follows from an attempt without an answer; `status` 0 is no HTTP answer at all."""
        if attempt.lost:
            self.time_outs.num_resent += 1
            self._send_elsewhere(attempt.index)
            return
        index, detail = attempt.index, " ".join((attempt.body or attempt.error).split())[:200]
        error = f"the server answered {status}: {detail}" if status else attempt.error
        reply = Reply(finish="error", error=error, failure="passing")
        cause: Cause = "endpoint" if attempt.refused else "passing"
        if status:
            cause = cause_of(status, attempt.body)
        asked_s = retry_after_s(attempt.retry_after)
        if cause == "passing" and asked_s > _MOST_WAIT_S:
            what = f"the server asks for a wait of {asked_s:.0f} s ({status})"
            self._leave_out(index, reply, sent, what, f"wait {_GO_ON}")
        elif cause == "passing":
            if is_overload(status):
                # limits are those of the account or the server, not of the one request
                sent.replica.held_s = max(sent.replica.held_s, time.monotonic() + asked_s)
            self.again(attempt, reply, sent, overload=is_overload(status), asked_s=asked_s)
        elif cause == "endpoint":
            self._leave_out(index, reply, sent, *self.endpoint.advice(status, detail))
        else:
            self.refusals.add(index, reply, cause)

    def _leave_out(self, index: int, reply: Reply, sent: Sent, what: str, fix: str) -> None:
        """Ask an address no more in this run; without another one the run ends."""
        replica, was_dead = sent.replica, sent.replica.dead
        replica.dead = True
        others = self.replicas.alive
        if not others:
            self.stop(replica.url, what, fix)
            self._fail(index, reply)
            return
        # many requests meet the same death: it is told once
        self._send_elsewhere(index)
        if not was_dead:
            go_on = "the other address goes on" if len(others) == 1 else "the others go on"
            self.time_outs.say(f"{replica.url}: {what}; it is left out, and {go_on}")

    def _send_elsewhere(self, index: int) -> None:
        self._release(index)
        self._num_excused[index] += 1
        self.schedule.retry(index, time.monotonic())

    def may_retry(self, index: int) -> bool:
        """Whether a request that was sent may be sent again."""
        num_tries = self.schedule.num_sent[index] - self._num_excused[index]
        return num_tries <= self.endpoint.retries

    def again(
        self,
        attempt: Attempt,
        reply: Reply,
        sent: Sent,
        *,
        stored: bool = False,
        overload: bool = False,
        asked_s: float = 0.0,
    ) -> None:
        """Send a request again later, or let it fail when it was sent as often as it may."""
        index, replica = attempt.index, sent.replica
        self.last[index] = replica
        # a server that queues in place of refusing shows by time-outs that it has enough
        if overload or attempt.timed_out:
            replica.window.refused()
            self.time_outs.num_overloads += overload
        # one that was refused while others were answered has not had its try
        crowded_out = overload and self._num_answered > self._num_before.get(index, 0)
        # one address answers nobody while the others do: that is not the request's fault
        is_broken = not replica.has_answered and len(self.replicas.alive) > 1
        self._num_excused[index] += crowded_out or is_broken
        self._num_before[index] = self._num_answered
        if not overload and self._is_dead(replica):
            what = f"{NUM_DEAD} requests in a row failed, the last one because {reply.error}"
            self._leave_out(index, reply, sent, what, "")
        elif self.may_retry(index):
            self._release(index)
            self.time_outs.num_resent += 1
            self.time_outs.num_timed_out += attempt.timed_out
            # the window paces those that were crowded out: long delays would leave places empty
            most = _MOST_DOUBLINGS if crowded_out else self.endpoint.retries
            doublings = min(self.schedule.num_sent[index] - 1, most)
            # the random factor spreads retries that failed together
            delay_s = self.endpoint.backoff_s * 2.0**doublings * (0.5 + random.random())
            delay_s = max(min(delay_s, _MOST_DELAY_S), asked_s)
            self.schedule.retry(index, time.monotonic() + delay_s)
        else:
            # a body that was stored has been charged; a second entry would charge it again
            (self._finish if stored else self._fail)(index, reply)
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row == NUM_DEAD:
                what = f"{NUM_DEAD} requests in a row failed, the last one because {reply.error}"
                self.stop(replica.url, what, f"see to the server {_GO_ON}")

    def _is_dead(self, replica: Replica) -> bool:
        """Whether an address is to be left out after one more failure, as others answer."""
        replica.num_failed_in_a_row += 1
        others = [other for other in self.replicas.alive if other is not replica]
        is_dead = replica.dead or replica.num_failed_in_a_row >= NUM_DEAD
        return bool(is_dead and others)

    def stop(self, url: str, what: str, fix: str) -> None:
        """End the run for the first such reason."""
        self.fault = self.fault or UnfinishedError(f"{url}: {what}; {fix}.")
