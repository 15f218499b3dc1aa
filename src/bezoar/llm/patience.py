"""How long a slow server is waited for, and what people hear of it."""

import time
from collections.abc import Callable

from bezoar.llm.endpoint import Endpoint
from bezoar.llm.replicas import Replicas
from bezoar.llm.schedule import Schedule
from bezoar.stop import stopped

GRACE_S = 5.0
"""An interrupt waits at least this long for requests in flight."""
_BETWEEN_S = 30.0
"""Seconds between two lines about requests that timed out."""
Say = Callable[[str], None]


class TimeOuts:
    """Requests that are sent again, counted, and those among them that timed out or that a server
    refused for overload, told of now and then: a server that is too slow may be paid for all that
    it gave up."""

    def __init__(self, endpoint: Endpoint, replicas: Replicas, say: Say) -> None:
        self.endpoint, self.replicas, self.say = endpoint, replicas, say
        self.num_resent = self.num_timed_out = self.num_overloads = 0
        self._told, self._told_s = (0, 0), float("-inf")

    def tell(self, *, last: bool = False) -> None:
        """Say how many there were, unless it was said just now; `last`: nothing more will come."""
        due = last or time.monotonic() - self._told_s >= _BETWEEN_S
        if (self.num_timed_out, self.num_overloads) == self._told or not due:
            return
        (timed_out, overloads), most = self._told, self.endpoint.concurrency
        if self.num_timed_out > timed_out:
            many = "request" if self.num_timed_out == 1 else "requests"
            were = "was" if self.num_timed_out == 1 else "were"
            self.say(
                f"{self.num_timed_out} {many} timed out after {self.endpoint.timeout_s:g} s and"
                f" {were} sent again; lower concurrency ({most}) or raise timeout_s"
                f" ({self.endpoint.urls[0]})"
            )
        if self.num_overloads > overloads:
            many = "time" if self.num_overloads == 1 else "times"
            sizes = ", ".join(f"{r.window.size} at {r.url}" for r in self.replicas.alive)
            self.say(
                f"the server had enough {self.num_overloads} {many} (429, 503): of {most} requests"
                f" at a time now {sizes}"
            )
        self._told_s, self._told = time.monotonic(), (self.num_timed_out, self.num_overloads)


def grace_s(schedule: Schedule, slowest_s: float, timeout_s: float) -> float:
    """Seconds to wait for what is in flight: twice the slowest answer, or as long again as the
    oldest request has waited, at least `GRACE_S`, at most until the newest one times out."""
    now = time.monotonic()
    waited_s = [now - sent.at_s for sent in schedule.in_flight.values()] or [0.0]
    return min(max(GRACE_S, 2 * slowest_s, max(waited_s)), max(timeout_s - min(waited_s), 0.0))


def say_waiting(say: Say, num: int, seconds: float) -> None:
    """Say what a run that ends still waits for, if it does."""
    again = "; press Ctrl-C again to end now" if stopped() else ""
    if num:
        requests = "request" if num == 1 else "requests"
        say(f"stopping: waiting up to {seconds:.0f} s for {num} {requests} in flight{again}")


def say_left(say: Say, num: int) -> None:
    """Say how many requests were not waited for, if any."""
    if num:
        were = "request was" if num == 1 else "requests were"
        say(f"{num} {were} not waited for: sent, perhaps charged for, and asked again next time")
