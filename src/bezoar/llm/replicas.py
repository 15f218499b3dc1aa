"""The addresses of an endpoint: which one is asked next, how fast, and which is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bezoar.llm.pace import PerMinute, Window


class Sent(NamedTuple):
    """A request in flight: when it was sent, the money reserved for it, the tokens that it could
    take at most and those reserved, where it went, and how many were in flight there with it."""

    at_s: float
    usd: float
    most_tokens: float
    tokens: float
    replica: "Replica"
    num_in_flight: int


@dataclass
class Replica:
    """One address, and what it takes now. `held_s`: until when nothing is sent (Retry-After)."""

    url: str
    window: Window
    requests: PerMinute | None = None
    tokens: PerMinute | None = None
    held_s: float = 0.0
    num_in_flight: int = 0
    num_failed_in_a_row: int = 0
    has_answered: bool = False
    dead: bool = False

    @property
    def num_free(self) -> int:
        """Places in flight."""
        return 0 if self.dead else max(self.window.size - self.num_in_flight, 0)

    def wait_s(self, tokens: float, now: float) -> float | None:
        """Seconds until a request of so many tokens may be sent; None for not before an answer."""
        if not self.num_free:
            return None
        waits = [self.held_s - now, self.requests.wait_s(1, now) if self.requests else 0.0]
        waits.append(self.tokens.wait_s(tokens, now) if self.tokens else 0.0)
        return max(*waits, 0.0)

    def send(self, tokens: float, now: float) -> None:
        """Note that a request is sent."""
        self.num_in_flight += 1
        self._use(1, tokens, now)

    def came_back(self, sent: Sent, tokens: float, now: float) -> None:
        """Note that a request came back, which took so many tokens."""
        self.num_in_flight -= 1
        self._use(0, tokens - sent.tokens, now)

    def _use(self, requests: int, tokens: float, now: float) -> None:
        for rate, units in ((self.requests, requests), (self.tokens, tokens)):
            if rate:
                rate.use(units, now)


class Replicas:
    """All addresses of one endpoint, each of which answers alike.

    `per_minute`: most requests and most tokens of an address in a minute; 0 is no limit.
    """

    def __init__(
        self, urls: Sequence[str], concurrency: int, per_minute: tuple[int, int], now: float
    ) -> None:
        requests, tokens = per_minute
        self.all = [
            Replica(
                url,
                Window(concurrency),
                PerMinute(requests, now) if requests else None,
                PerMinute(tokens, now) if tokens else None,
            )
            for url in urls
        ]
        # tokens that answered requests could take at most, those that they took, and their number
        self._most = self._took = 0.0
        self._next = 1.0  # tokens of the next request: those of the last one, until it is known

    @property
    def alive(self) -> list[Replica]:
        """Those that are asked."""
        return [replica for replica in self.all if not replica.dead]

    def begin(self) -> None:
        """Nothing is in flight; where all are left out, each gets another chance."""
        # what a run that ended did not wait for is nobody's any more
        none_alive = not self.alive
        for replica in self.all:
            replica.num_in_flight = replica.num_failed_in_a_row = 0
            replica.dead = replica.dead and not none_alive

    def num_free(self, now: float) -> int:
        """How many requests may be sent now."""
        num = 0
        for replica in self.alive:
            if replica.wait_s(self._next, now) == 0:
                free = replica.num_free
                if replica.requests:
                    free = min(free, max(int(replica.requests.left(now)), 1))
                if replica.tokens:
                    free = min(free, max(int(replica.tokens.left(now) / self._next), 1))
                num += free
        return num

    def wait_s(self, now: float) -> float | None:
        """Seconds until one of them may be asked; None for not before an answer."""
        waits = [replica.wait_s(self._next, now) for replica in self.alive]
        return min((wait for wait in waits if wait is not None), default=None)

    def choose(self, tokens: float, now: float, but: Replica | None = None) -> Replica | None:
        """The least busy one that may be asked now, if possible not `but`; None for none."""
        self._next = max(tokens, 1.0)
        ready = [replica for replica in self.alive if replica.wait_s(tokens, now) == 0]
        # what failed at one address may be that address's fault
        others = [replica for replica in ready if replica is not but] or ready
        return min(others, key=lambda r: r.num_in_flight / r.window.size, default=None)

    def expected_tokens(self, most: float) -> float:
        """About how many tokens a request takes that takes at most so many; `most` at first."""
        # answers are mostly far shorter than they may be; what they took is corrected for anyway
        return most * self._took / self._most if self._took else most

    def came_back(self, sent: Sent, took: float, now: float) -> None:
        """Note that a request came back, and the tokens that it took; 0 without an answer."""
        sent.replica.came_back(sent, took, now)
        if took:
            self._most, self._took = self._most + sent.most_tokens, self._took + took
