"""How fast one address is asked: as many in flight as it takes, so many units a minute."""

_GROWTH = 1 / 6
_MINUTE_S = 60.0
_NOTHING = 1e-6  # units: sums of times are inexact


class Window:
    """How many requests may be in flight: `most` at first, fewer where a server has enough.

    A refusal for overload takes a place away and an answer gives a sixth of one back, so that the
    window shrinks in proportion to the share refused, as DCTCP's does (RFC 8257), and settles where
    one request in seven is refused. Halving at every refusal would leave a handful in flight where
    a tenth of all requests is refused at random.
    """

    def __init__(self, most: int) -> None:
        self.most, self._size = most, float(most)

    @property
    def size(self) -> int:
        """Requests that may be in flight now, at least 1."""
        return int(self._size)

    def refused(self) -> None:
        """The server had enough."""
        self._size = max(self._size - 1, 1.0)

    def answered(self, num_in_flight: int) -> None:
        """The server took so many; far fewer than there may be show nothing (RFC 7661)."""
        if num_in_flight >= self._size / 4:
            self._size = min(self._size + _GROWTH, float(self.most))


class PerMinute:
    """At most `limit` units in any minute, spread evenly: what is left of a second's share may be
    used at once. Times are those of `time.monotonic`."""

    def __init__(self, limit: int, now: float) -> None:
        self._most = max(limit / _MINUTE_S, 1.0)
        # a minute that begins with a full share must not pass the limit either
        self._per_s = (limit - self._most + 1) / _MINUTE_S
        self._left, self._now = self._most, now

    def left(self, now: float) -> float:
        """Units that may be used now; below 0 after a use of more than a second's share."""
        # an idle minute saves nothing up: providers refuse bursts that the minute would allow
        self._left = min(self._left + (now - self._now) * self._per_s, self._most)
        self._now = now
        return self._left

    def wait_s(self, units: float, now: float) -> float:
        """Seconds until so many units may be used; what is more than a second's share may be used
        as soon as that is there."""
        missing = min(units, self._most) - self.left(now)
        return missing / self._per_s if missing > _NOTHING else 0.0

    def use(self, units: float, now: float) -> None:
        """Use units, or give them back (below 0)."""
        self._left = min(self.left(now) - units, self._most)
