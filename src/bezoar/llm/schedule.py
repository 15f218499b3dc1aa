"""Which request is sent when: new ones in their order, retries after a delay, so many at a time."""

import heapq
from collections import Counter, deque
from collections.abc import Sequence

from bezoar.llm.replicas import Sent

_RAMP = 256  # new connections a pass: a server's queue of connections is short
_RAMP_S = 0.01
_CLAIMED_S = 0.2  # how often to look for answers to what other processes are asking


class Schedule:
    """Requests, by their index, that are not finished: each waits, is sent later, or is in flight.

    A request that waits for its retry keeps a place, so that a server in trouble is not asked for
    more and more. `probe` limits how many more are tried.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self.in_flight: dict[int, Sent] = {}
        self.num_sent: Counter[int] = Counter()
        self._waiting = deque(indices)
        self._later: list[tuple[float, int]] = []  # heap: retries, and what others have claimed
        self._retrying: set[int] = set()
        self._most_tried: int | None = None

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._later or self.in_flight)

    @property
    def stuck(self) -> bool:
        """Whether all that `probe` allows has failed, and more waits."""
        busy = self.in_flight or self._retrying
        return bool(self._waiting and not busy and self._most_new(1) <= 0)

    def due(self, now: float, num_free: int) -> list[int]:
        """What may be sent at the time `now` (`time.monotonic`), where `num_free` can be."""
        # retries have their place already; what another process had claimed must find one again
        retries, others = list[int](), list[int]()
        while self._later and self._later[0][0] <= now and len(retries) < num_free:
            index = heapq.heappop(self._later)[1]
            (retries if index in self._retrying else others).append(index)
        self._waiting.extendleft(reversed(others))
        num_new = self._most_new(num_free - len(self._retrying))
        self._retrying.difference_update(retries)
        num_new = min(num_new, _RAMP, len(self._waiting))
        return retries + [self._waiting.popleft() for _ in range(num_new)]

    def pause_s(
        self, now: float, num_free: int, free_s: float | None, *, more: bool
    ) -> float | None:
        """Seconds to wait, None for as long as it takes. `free_s`: seconds until there is a place,
        None if only an answer makes one; `more`: new requests may be sent soon."""
        # what comes back makes the place, and wakes us
        if free_s is None and self.in_flight:
            return None
        free_s, times = free_s or 0.0, list[float]()
        if self._later:
            times.append(max(self._later[0][0] - now, free_s))
        # after a full ramp, or where a rate is limited; nothing that comes back would wake us
        if more and self._waiting and (free_s or self._most_new(num_free - len(self._retrying))):
            times.append(max(_RAMP_S, free_s))
        return max(min(times), 0.0) if times else None

    def send(self, index: int, sent: Sent) -> None:
        """Note that a request is in flight."""
        self.in_flight[index] = sent
        self.num_sent[index] += 1

    def retry(self, index: int, when: float) -> None:
        """Send a request again at the time `when`."""
        self._retrying.add(index)
        heapq.heappush(self._later, (when, index))

    def look_again(self, index: int, now: float) -> None:
        """Another process has the request, or its money, for now."""
        heapq.heappush(self._later, (now + _CLAIMED_S, index))

    def wait(self, index: int, when: float) -> None:
        """Send a request that is due at the time `when`: the endpoint takes no more now."""
        if self.num_sent[index]:
            self._retrying.add(index)
        heapq.heappush(self._later, (when, index))

    def put_back(self, indices: Sequence[int]) -> None:
        self._waiting.extendleft(reversed(indices))

    def drop(self) -> list[int]:
        """Forget what is not in flight; its indices."""
        unsent = [*(index for _, index in self._later), *self._waiting]
        self._later.clear()
        self._waiting.clear()
        self._retrying.clear()
        return unsent

    def probe(self, num: int, tried_before: set[int]) -> None:
        """Try only `num` requests more until `end_probe`: from all over the list, as refusals may
        stand side by side, and if possible none of `tried_before`."""
        if self._most_tried is None:
            new = [index for index in self._waiting if index not in tried_before]
            new = new or list(self._waiting)
            probes = dict.fromkeys(new[:: -max(len(new) // num, 1)][:num])
            self._waiting = deque([*probes, *(i for i in self._waiting if i not in probes)])
            self._most_tried = len(self.num_sent) + num

    def end_probe(self) -> None:
        self._most_tried = None

    def _most_new(self, num_free: int) -> int:
        # of requests that were never sent
        if self._most_tried is None:
            return max(num_free, 0)
        return max(min(num_free, self._most_tried - len(self.num_sent)), 0)
