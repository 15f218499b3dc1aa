"""Which rows of a stream are taken: the first ones, or a seeded sample, in memory bounded by what
is asked for."""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bezoar.chat.types import Chat, Comparison, Dropped, Filtered
from bezoar.errors import DataError
from bezoar.io import canonical

ItemT = TypeVar("ItemT", bound=Chat | Comparison)


def content_key(item: Chat | Comparison, seed: int) -> int:
    """A number in 0..2^128 that depends on the texts (and tools) of a row and the seed alone: equal
    rows have equal keys."""
    content: list[Any]
    if isinstance(item, Chat):
        content = [
            [m.role, m.content, [[c.name, c.arguments] for c in m.tool_calls]]
            for m in item.messages
        ]
        content.append(item.meta.get("tools"))
    else:
        content = [*([m.role, m.content] for m in item.prompt), [item.chosen, item.rejected]]
    return _hash(canonical(content), seed, item.id)


def _hash(text: str, seed: int, row: str) -> int:
    try:
        data = f"{seed}\0{text}".encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{row}: the row holds half of a surrogate pair, which is no character; mend the row."
        ) from None
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


@dataclass(frozen=True)
class Subset:
    """Rows `skip` to `skip + limit` of each group, in the order of the file or, with a seed, of the
    content keys.

    With a seed the sample does not depend on the order of the rows, and two windows of one data set
    that do not overlap share no row. Exact duplicates of a row of the same group are dropped and
    counted. A dropped row is reported when it would have stood in the window.
    """

    skip: int = 0
    limit: int | None = None
    seed: int | None = None

    def take(
        self,
        stream: Iterable[ItemT | Dropped],
        group: Callable[[ItemT], str] | None = None,
        *,
        limit: int | None = None,
    ) -> Filtered[ItemT]:
        """The rows of the window; with `group` each group has its own, of `limit` rows."""
        size = self.limit if group is None else limit
        if self.seed is None:
            return self._first(stream, group, size)
        return self._sample(stream, group, size, self.seed)

    def _first(
        self,
        stream: Iterable[ItemT | Dropped],
        group: Callable[[ItemT], str] | None,
        size: int | None,
    ) -> Filtered[ItemT]:
        rows: list[ItemT] = []
        dropped: list[Dropped] = []
        seen: set[tuple[str, int]] = set()
        counts: dict[str, int] = {}
        end = None if size is None else self.skip + size
        for item in stream:
            if not isinstance(item, Dropped):
                key, name = content_key(item, 0), group(item) if group else ""
                count = counts.setdefault(name, 0) + 1
                if (name, key) in seen:
                    item = _duplicate(item)
                elif end is None or count <= end:
                    seen.add((name, key))
                    counts[name] = count
                    if count > self.skip:
                        rows.append(item)
            if isinstance(item, Dropped) and self._inside(counts, end):
                dropped.append(item)
            if group is None and counts.get("", 0) == end:
                break
        return Filtered(rows, dropped)

    def _inside(self, counts: dict[str, int], end: int | None) -> bool:
        """Whether some group is in its window, or none was seen yet."""
        return any(self.skip <= n and (end is None or n < end) for n in counts.values() or [0])

    def _sample(
        self,
        stream: Iterable[ItemT | Dropped],
        group: Callable[[ItemT], str] | None,
        size: int | None,
        seed: int,
    ) -> Filtered[ItemT]:
        lowest: dict[str, _Lowest[ItemT]] = {}
        dropped: list[tuple[int, Dropped]] = []
        num_kept = 1_000
        for item in stream:
            if isinstance(item, Dropped):
                dropped.append((_hash(item.id, seed, item.id), item))
            else:
                name = group(item) if group else ""
                heap = lowest.setdefault(name, _Lowest(None if size is None else self.skip + size))
                key = content_key(item, seed)
                if not heap.offer(key, item):
                    dropped.append((key, _duplicate(item)))
            if len(dropped) > num_kept:
                dropped = _below(dropped, lowest)
                num_kept = max(num_kept, 2 * len(dropped))
        ordered = {name: heap.ordered() for name, heap in lowest.items()}
        rows = sorted(
            (pair for pairs in ordered.values() for pair in pairs[self.skip :]),
            key=lambda pair: pair[0],
        )
        starts = [
            pairs[self.skip - 1][0] for pairs in ordered.values() if 0 < self.skip <= len(pairs)
        ]
        inside = sorted(
            (pair for pair in _below(dropped, lowest) if pair[0] > min(starts, default=-1)),
            key=lambda pair: pair[0],
        )
        return Filtered([item for _, item in rows], [item for _, item in inside])


def _duplicate(item: Chat | Comparison) -> Dropped:
    return Dropped(item.id, "duplicate", "an equal row stands before it")


@dataclass
class _Lowest(Generic[ItemT]):
    """The `size` items with the lowest keys, each key once; all of them without a size."""

    size: int | None
    heap: list[tuple[int, ItemT]] = field(default_factory=list)
    keys: set[int] = field(default_factory=set)

    def offer(self, key: int, item: ItemT) -> bool:
        """Take the item unless `size` lower ones are held; False when an equal one is held."""
        if key in self.keys:
            return False
        self.keys.add(key)
        if self.size is None or len(self.heap) < self.size:
            heapq.heappush(self.heap, (-key, item))
        else:
            self.keys.remove(-heapq.heappushpop(self.heap, (-key, item))[0])
        return True

    def bound(self) -> int:
        """Keys from here on are not taken."""
        full = self.size is not None and len(self.heap) >= self.size
        return -self.heap[0][0] if full and self.heap else 1 << 128

    def ordered(self) -> list[tuple[int, ItemT]]:
        """(key, item) by key."""
        return sorted(((-key, item) for key, item in self.heap), key=lambda pair: pair[0])


def _below(
    dropped: list[tuple[int, Dropped]], lowest: dict[str, _Lowest[ItemT]]
) -> list[tuple[int, Dropped]]:
    bound = max((heap.bound() for heap in lowest.values()), default=1 << 128)
    return [pair for pair in dropped if pair[0] <= bound]
