"""Which rows are taken: the first ones or a seeded sample, in memory bounded by their number."""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bezoar.chat.types import Chat, Comparison, Dropped, Filtered
from bezoar.errors import DataError
from bezoar.io import canonical

ItemT = TypeVar("ItemT", bound=Chat | Comparison)
_Group = Callable[[ItemT], str] | None
# with their keys
_Drops = list[tuple[int, Dropped]]
_ABOVE_ALL_KEYS = 1 << 128


def content_key(item: Chat | Comparison, seed: int) -> int:
    """A number in 0..2^128 from texts, tools and seed only: equal rows have equal keys."""
    content: list[Any] = []
    if isinstance(item, Chat):
        for message in item.messages:
            calls = [[call.name, call.arguments] for call in message.tool_calls]
            content.append([message.role, message.content, calls])
        content.append(item.meta.get("tools"))
    else:
        content = [*([m.role, m.content] for m in item.prompt), [item.chosen, item.rejected]]
    return _hash(canonical(content), seed, item.id)


def _hash(text: str, seed: int, row_id: str) -> int:
    try:
        data = f"{seed}\0{text}".encode()
    except UnicodeEncodeError:
        what = "the row holds half of a surrogate pair, which is no character; mend the row"
        raise DataError(f"{row_id}: {what}.") from None
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


@dataclass(frozen=True)
class Subset:
    """Rows `skip` to `skip + limit` of each group, in the order of the file or, with a seed, of the
    content keys.

    With a seed the sample does not depend on the order of the rows, and two windows of one data set
    that do not overlap share no row. Exact duplicates of a row of the same group are dropped and
    counted. A dropped row is reported if it would have been in the window.
    """

    skip: int = 0
    limit: int | None = None
    seed: int | None = None

    def take(
        self,
        stream: Iterable[ItemT | Dropped],
        group: _Group[ItemT] = None,
        *,
        limit: int | None = None,
    ) -> Filtered[ItemT]:
        """The rows of the window; with `group` each group has its own, of `limit` rows."""
        size = self.limit if group is None else limit
        end = None if size is None else self.skip + size
        if self.seed is None:
            return self._first(stream, group, end)
        return self._sample(stream, group, end, self.seed)

    def _first(
        self, stream: Iterable[ItemT | Dropped], group: _Group[ItemT], end: int | None
    ) -> Filtered[ItemT]:
        # counts: how many different rows of each group came so far, those that are skipped included
        filtered: Filtered[ItemT] = Filtered([])
        seen: set[tuple[str, int]] = set()
        counts: dict[str, int] = {}
        for item in stream:
            if not isinstance(item, Dropped):
                key, name = content_key(item, 0), group(item) if group else ""
                # only rows up to the end of the window are remembered: later ones are not taken
                count = counts.setdefault(name, 0) + 1
                if (name, key) in seen:
                    item = _duplicate(item)
                elif end is None or count <= end:
                    seen.add((name, key))
                    counts[name] = count
                    if count > self.skip:
                        filtered.rows.append(item)
            if isinstance(item, Dropped) and self._is_inside(counts, end):
                filtered.dropped.append(item)
            if group is None and counts.get("", 0) == end:
                break
        return filtered

    def _is_inside(self, counts: dict[str, int], end: int | None) -> bool:
        """Whether some group is in its window, or none was seen yet."""
        return any(self.skip <= n and (end is None or n < end) for n in counts.values() or [0])

    def _sample(
        self, stream: Iterable[ItemT | Dropped], group: _Group[ItemT], end: int | None, seed: int
    ) -> Filtered[ItemT]:
        # 1) Keep the `end` rows with the lowest keys of each group, and all drops below them.
        # Drops have keys too, so that they lie at random places among the rows. They are thinned
        # when their number doubles, or they would grow with the file.
        lowest: dict[str, _Lowest[ItemT]] = {}
        dropped: _Drops = []
        most_dropped = 1_000
        for item in stream:
            if isinstance(item, Dropped):
                dropped.append((_hash(item.id, seed, item.id), item))
            else:
                kept = lowest.setdefault(group(item) if group else "", _Lowest(end))
                key = content_key(item, seed)
                if not kept.add(key, item):
                    dropped.append((key, _duplicate(item)))
            if len(dropped) > most_dropped:
                dropped = _within(dropped, lowest)
                most_dropped = max(most_dropped, 2 * len(dropped))
        # 2) Leave out the first `skip` of each group, and the drops before the first row after it.
        rows: list[tuple[int, ItemT]] = []
        first_keys: list[int] = []
        for kept in lowest.values():
            ordered = sorted(kept.items.items())
            rows += ordered[self.skip :]
            if 0 < self.skip <= len(ordered):
                first_keys.append(ordered[self.skip - 1][0])
        start = min(first_keys, default=-1)
        inside = [pair for pair in _within(dropped, lowest) if pair[0] > start]
        # 3) All in the order of the keys, whichever group they are of.
        return Filtered(_by_key(rows), _by_key(inside))


def _duplicate(item: Chat | Comparison) -> Dropped:
    return Dropped(item.id, "duplicate", "an equal row stands before it")


PairT = TypeVar("PairT")


def _by_key(pairs: list[tuple[int, PairT]]) -> list[PairT]:
    return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


@dataclass
class _Lowest(Generic[ItemT]):
    """The `size` items with the lowest keys, each key once; all of them without a size."""

    size: int | None
    items: dict[int, ItemT] = field(default_factory=dict)
    heap: list[int] = field(default_factory=list)  # of the negative keys: the highest comes first

    def add(self, key: int, item: ItemT) -> bool:
        """Take the item unless `size` lower ones are held; False if an equal one is held."""
        if key in self.items:
            return False
        self.items[key] = item
        heapq.heappush(self.heap, -key)
        if self.size is not None and len(self.heap) > self.size:
            del self.items[-heapq.heappop(self.heap)]
        return True

    @property
    def bound(self) -> int:
        """Keys above it are not taken."""
        return -self.heap[0] if len(self.heap) == self.size else _ABOVE_ALL_KEYS


def _within(dropped: _Drops, lowest: dict[str, _Lowest[ItemT]]) -> _Drops:
    bound = max((kept.bound for kept in lowest.values()), default=_ABOVE_ALL_KEYS)
    return [pair for pair in dropped if pair[0] <= bound]
