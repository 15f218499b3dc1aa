"""Rows that are counted behind the filters: bought in waves, by the share that was accepted so far,
until there are as many as are wanted."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from bezoar.bounds import Count
from bezoar.chat.types import Chat, Dropped, Filtered
from bezoar.errors import BudgetError
from bezoar.io import content_hash
from bezoar.llm.types import Ask, Reply, Request
from bezoar.stage import StageContext

_CAUTION = 2.5
"""Standard deviations by which a wave stays below what is missing."""
_SMALL = 0.05
"""Share of what was bought that a wave may buy in vain: without it the last row is waited for in
many waves."""
_MOST = 100


@dataclass(frozen=True)
class Accepted:
    """So many rows behind all filters that follow the stage, one on the other.

    Waves of rows are written and filtered, each by the share that was accepted so far, until they
    are there; what is written beyond the last one is dropped as "surplus". The filters must decide
    row by row.
    """

    accepted: Count
    """Rows that the last of the filters keeps."""
    most: Count | None = None
    """Most rows (of `num_seeds`: seeds) to try for them; null for 100 times as many."""

    @property
    def limit(self) -> int:
        """The most units that are tried."""
        return self.most or _MOST * self.accepted


RowCount = Count | Accepted
"""Rows to write, or rows that the filters behind accept."""


def written(num: int | Accepted) -> int:
    """A number of rows that are written, which `Accepted` is not."""
    if isinstance(num, Accepted):
        raise TypeError("how many rows are written is known wave by wave")
    return num


def next_wave(num_tried: int, num_accepted: int, num_missing: int) -> int:
    """How many more to try, of which at most `num_missing` are to be accepted.

    As many as stay below that by 2.5 standard deviations, with the share so far known as far as it
    is: a Beta distribution after Jeffreys' prior, and the number of a wave beta-binomial. At most
    as many as were tried before, or 5 % of them where what is missing is likely to be there then.
    Never fewer than are missing. Ours.
    """
    if not num_tried:
        return num_missing
    known = num_tried + 1
    share = (num_accepted + 0.5) / known

    def fits(num: int) -> bool:
        spread = math.sqrt(num * share * (1 - share) * (1 + num / known))
        return num * share + _CAUTION * spread <= num_missing

    low, high = num_missing, max(num_missing, 2 * num_tried)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return max(low, min(math.ceil(num_missing / share), int(_SMALL * num_tried)))


@dataclass
class Remembering:
    """An `Ask` that asks each question once: a wave repeats those of the waves before it."""

    ask: Ask
    known: dict[str, Reply] = field(default_factory=dict)

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        keys = [content_hash(request.content()) for request in requests]
        pairs = zip(keys, requests, strict=True)
        new = {key: request for key, request in pairs if key not in self.known}
        if new:
            self.known.update(zip(new, self.ask(list(new.values())), strict=True))
        return [self.known[key] for key in keys]


@dataclass(frozen=True)
class Waves:
    """What is bought: `write` gives the rows of the first so many units, each of up to `each` rows;
    equal replies give equal rows, and those of more units hold those of fewer. `accept` names the
    ids of rows that the filters keep, `say` is told of each wave.

    `fills` is of schemes that give as many rows as they are asked for, unless they cannot.
    """

    wanted: Accepted
    write: Callable[[int], Filtered[Chat]]
    accept: Callable[[Sequence[Chat]], Collection[str]]
    say: Callable[[str], None]
    each: int = 1
    fills: bool = False

    @classmethod
    def of(
        cls,
        context: StageContext,
        wanted: Accepted,
        write: Callable[[int], Filtered[Chat]],
        **more: Any,
    ) -> "Waves":
        """Those of a stage: `accept` and `say` are its context's."""

        def say(text: str) -> None:
            context.progress.say(f"  {context.name}: {text}")

        return cls(wanted, write, context.accepted, say, **more)

    def buy(self) -> Filtered[Chat]:
        """The rows up to the last one that is needed; what was written behind it is "surplus".

        Fewer where the scheme has no more or `most` are tried. BudgetError tells how far it came.
        """
        num_tried, kept, before, made = 0, list[str](), -1, Filtered[Chat]([])
        while len(kept) < self.wanted.accepted and num_tried < self.wanted.limit:
            missing = self.wanted.accepted - len(kept)
            # counted in rows that might come, since a unit may give several
            more = next_wave(num_tried * self.each, len(kept), missing)
            num_tried = min(num_tried + math.ceil(more / self.each), self.wanted.limit)
            try:
                made = self.write(num_tried)
                ids = self.accept(made.rows)
            except BudgetError as error:
                told = f"{len(kept)} of {self.wanted.accepted} rows are accepted so far"
                raise BudgetError(f"{told}, and {error}") from error
            kept = [row.id for row in made.rows if row.id in ids]
            self.say(
                f"{min(len(kept), self.wanted.accepted)} of {self.wanted.accepted} rows are"
                f" accepted, of {len(made.rows)} that were written"
            )
            # without a new row or a new reason, more would be asked in vain
            done = len(made.rows) + len(made.dropped)
            if done == before or (self.fills and len(made.rows) < num_tried):
                break
            before = done
        return self._cut(made, kept, num_tried)

    def _cut(self, made: Filtered[Chat], kept: list[str], num_tried: int) -> Filtered[Chat]:
        """Without what stands behind the last row that is needed."""
        if len(kept) < self.wanted.accepted:
            why = "the scheme has no more"
            if num_tried >= self.wanted.limit:
                why = f"as many were tried as `most` allows, {num_tried}"
            self.say(f"warning: fewer rows than the {self.wanted.accepted} that were wanted: {why}")
            return made
        last = kept[self.wanted.accepted - 1]
        end = next(i for i, row in enumerate(made.rows, 1) if row.id == last)
        surplus = [Dropped(row.id, "surplus", row.prompt[-1].content) for row in made.rows[end:]]
        return Filtered(made.rows[:end], [*made.dropped, *surplus])
