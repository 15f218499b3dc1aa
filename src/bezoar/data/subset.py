"""Which rows are taken: the first ones or a seeded sample, in memory bounded by their number."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bezoar.chat.messages import offered
from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import Chat, Comparison, Dropped, Filtered
from bezoar.errors import DataError
from bezoar.io import canonical

ItemT = TypeVar("ItemT", bound=Chat | Comparison)
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
        content.append([tool.to_json() for tool in offered(item.messages)] or None)
    else:
        prompt = [[m.role, write_answer(m)] for m in item.prompt]
        content = [*prompt, [item.chosen, item.rejected]]
        content += [tool.to_json() for tool in offered(item.prompt)]
    return text_key(canonical(content), seed, item.id)


def text_key(text: str, seed: int, row_id: str) -> int:
    """A number in 0..2^128 from a text and a seed; an error names the row."""
    try:
        data = f"{seed}\0{text}".encode()
    except UnicodeEncodeError:
        what = "the row holds half of a surrogate pair, which is no character; mend the row"
        raise DataError(f"{row_id}: {what}.") from None
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


@dataclass(frozen=True)
class Subset:
    """Rows `skip` to `skip + limit`, in the order of the file or, with a seed, of the content keys.

    With a seed the sample does not depend on the order of the rows, and two windows of one data set
    that do not overlap share no row. Exact duplicates are dropped and counted. A dropped row is
    reported if it would have been in the window.
    """

    skip: int = 0
    limit: int | None = None
    seed: int | None = None

    def take(self, stream: Iterable[ItemT | Dropped]) -> Filtered[ItemT]:
        """The rows of the window."""
        return Filtered.split(self.each(stream))

    def each(self, stream: Iterable[ItemT | Dropped]) -> Iterator[ItemT | Dropped]:
        """The same as they come; without a seed none is held, only a key of each."""
        end = None if self.limit is None else self.skip + self.limit
        if self.seed is None:
            yield from self._first(stream, end)
        else:
            taken = self._sample(stream, end, self.seed)
            yield from taken.rows
            yield from taken.dropped

    def _first(
        self, stream: Iterable[ItemT | Dropped], end: int | None
    ) -> Iterator[ItemT | Dropped]:
        # how many different rows came so far, those that are skipped included
        seen: set[int] = set()
        for item in stream:
            num_before = len(seen)
            if not isinstance(item, Dropped):
                seen.add(content_key(item, 0))
            if len(seen) > num_before:
                if len(seen) > self.skip:
                    yield item
            elif len(seen) >= self.skip:
                yield item if isinstance(item, Dropped) else duplicate(item)
            if len(seen) == end:
                break

    def _sample(
        self, stream: Iterable[ItemT | Dropped], end: int | None, seed: int
    ) -> Filtered[ItemT]:
        # 1) Keep the `end` rows with the lowest keys, and all drops below them. Drops have keys
        # too, so that they lie at random places among the rows. They are thinned when their number
        # doubles, or they would grow with the file.
        lowest: _Lowest[ItemT] = _Lowest(end)
        dropped: _Drops = []
        most_dropped = 1_000
        for item in stream:
            if isinstance(item, Dropped):
                dropped.append((text_key(item.id, seed, item.id), item))
            else:
                key = content_key(item, seed)
                if not lowest.add(key, item):
                    dropped.append((key, duplicate(item)))
            if len(dropped) > most_dropped:
                dropped = _within(dropped, lowest)
                most_dropped = max(most_dropped, 2 * len(dropped))
        # 2) Leave out the first `skip`, and the drops before the first row after it.
        rows = sorted(lowest.items.items(), key=lambda pair: pair[0])
        start = rows[self.skip - 1][0] if 0 < self.skip <= len(rows) else -1
        inside = [pair for pair in _within(dropped, lowest) if pair[0] > start]
        return Filtered([item for _, item in rows[self.skip :]], _by_key(inside))


def duplicate(item: Chat | Comparison) -> Dropped:
    """What becomes of a row that was there before."""
    return Dropped(item.id, "duplicate", "an equal row stands before it")


def _by_key(pairs: _Drops) -> list[Dropped]:
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


def _within(dropped: _Drops, lowest: _Lowest[Any]) -> _Drops:
    return [pair for pair in dropped if pair[0] <= lowest.bound]
