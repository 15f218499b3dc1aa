"""From several scored answers to the best one, or to the best and the worst as a pair."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Message, SampledAnswers, ended
from bezoar.cost import Estimate
from bezoar.errors import DataError
from bezoar.judge.stages import RowFilter
from bezoar.stage import Outputs, Rows


@dataclass(frozen=True)
class BestOfN(RowFilter):
    """Chooses among sampled answers by one of their numbers: rejection sampling or pairs.

    Of equal numbers the first answer counts. An answer that was cut off (`ended` 0) is chosen only
    where none was written to its end, and its end token is not trained.

    Source: iterative DPO in HelpSteer2, arXiv 2406.08673, section 4.3
    Example: {kind: best_of_n, rows: sampled, give: pairs, by: reward}
    """

    give: Literal["chats", "pairs", "own"] = "pairs"
    """chats: the best answer; pairs: best over worst; own: the seed's over the first sampled."""
    by: str = "reward"
    """The number that decides, such as reward or an output of the reward model; none for own."""
    cut_off: Literal["keep", "drop"] = "keep"
    """drop leaves answers out that were cut off, and so rows that have no others."""
    kind: Literal["best_of_n"] = "best_of_n"
    kept_share = Estimate(0, 1, 1)
    row_by_row = False

    def __post_init__(self) -> None:
        if self.give == "own" and self.by != "reward":
            raise ValueError("by has no effect with give: own, which reads no number; remove it")

    def takes(self) -> Mapping[str, RowNeed]:
        """Sampled answers, with the number that decides."""
        numbers = frozenset[str]() if self.give == "own" else frozenset({self.by})
        return {"rows": (RowType("sampled answers", numbers),)}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats or pairs."""
        return RowType("chats" if self.give == "chats" else "comparisons", frozenset({"own"}))

    def each(
        self, rows: Rows, work_dir: Path | None = None
    ) -> Iterator[Chat | Comparison | Dropped]:
        """Chats or pairs; others are dropped with "no number", "no difference", "no answer" or,
        where no answer was written to its end, "cut off"."""
        return map(self._choose, rows)

    def _choose(self, row: AnyRow) -> Chat | Comparison | Dropped:
        if isinstance(row, SampledAnswers) and self.give == "own":
            return own_pair(row, drop=self.cut_off == "drop")
        if not isinstance(row, SampledAnswers) or self.by not in row.numbers:
            raise DataError(
                f"row {row.id}: it has no answers with a number {self.by!r}; name a stage of"
                " kind sample that has a reward."
            )
        numbers, has_ended = row.numbers[self.by], ended(row)
        # nan stands for an answer that the reward model could not read.
        known = [i for i, number in enumerate(numbers) if not math.isnan(number)]
        if not known:
            return Dropped(row.id, "no number")
        whole = [i for i in known if has_ended[i]]
        if self.cut_off == "drop":
            known = whole
        if not known:
            return Dropped(row.id, "cut off")
        best = max(whole or known, key=lambda i: numbers[i])
        worst = min(known, key=lambda i: numbers[i])
        if self.give == "chats":
            messages = (*row.prompt, Message("assistant", row.answers[best]))
            meta = {**row.meta, self.by: numbers[best], **_ended(row, best)}
            return Chat(row.id, messages, meta)
        # A pair of equal answers, or of equal numbers, teaches nothing.
        chosen, rejected = row.answers[best], row.answers[worst]
        if numbers[best] == numbers[worst] or chosen == rejected:
            return Dropped(row.id, "no difference")
        meta = {**row.meta, self.by: [numbers[best], numbers[worst]], **_ended(row, best, worst)}
        return Comparison(row.id, row.prompt, chosen, rejected, meta)


def own_pair(row: SampledAnswers, *, drop: bool = False) -> Comparison | Dropped:
    """The row's own answer over the first sampled one; with `drop` over the first that ended."""
    own, sampled = str(row.meta.get("own", "")), range(len(row.answers))
    first = next((i for i in sampled if ended(row)[i] or not drop), None)
    if first is None:
        return Dropped(row.id, "cut off")
    if not own.strip() or own == row.answers[first]:
        return Dropped(row.id, "no difference" if own.strip() else "no answer")
    # its own answer is its author's, who ended it
    cut_off = {} if ended(row)[first] else {"ended": [True, False]}
    return Comparison(row.id, row.prompt, own, row.answers[first], {**row.meta, **cut_off})


def _ended(row: SampledAnswers, *chosen: int) -> dict[str, Any]:
    """What tells training and log P that one of the chosen answers was cut off; else nothing."""
    values = [ended(row)[i] for i in chosen]
    return {} if all(values) else {"ended": values if len(values) > 1 else values[0]}
