"""From several scored answers to the best one, or to the best and the worst as a pair."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Filtered, Message, SampledAnswers
from bezoar.cost import Estimate, Quote
from bezoar.errors import DataError
from bezoar.judge.stages import RuleFilter


@dataclass(frozen=True)
class BestOfN(RuleFilter):
    """Recipe keys. `give: chats` keeps the answer with the highest number named `by` (rejection
    sampling, best of n); `pairs` gives it with the lowest one as chosen and rejected (iterative
    DPO, HelpSteer2, arXiv 2406.08673, section 4.3); `own` takes the answer that the prompt's row
    had as chosen and the first sampled one as rejected, and reads no number."""

    give: Literal["chats", "pairs", "own"] = "pairs"
    by: str = "reward"
    kind: Literal["best_of_n"] = "best_of_n"

    def __post_init__(self) -> None:
        if self.give == "own" and self.by != "reward":
            raise ValueError("by has no effect with give: own, which reads no number; remove it")

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Chat | Comparison]:
        """Of equal numbers the first answer counts. Prompts without a number are dropped as "no
        number", for pairs those whose answers or numbers are all equal as "no difference"."""
        kept: list[Chat | Comparison] = []
        dropped: list[Dropped] = []
        for row in rows:
            if isinstance(row, SampledAnswers) and self.give == "own":
                found = own_pair(row)
                if isinstance(found, Dropped):
                    dropped.append(found)
                else:
                    kept.append(found)
                continue
            if not isinstance(row, SampledAnswers) or self.by not in row.numbers:
                raise DataError(
                    f"row {row.id}: it has no answers with a number {self.by!r}; name a stage of"
                    " kind sample that has a reward."
                )
            known = [i for i, value in enumerate(row.numbers[self.by]) if not math.isnan(value)]
            if not known:
                dropped.append(Dropped(row.id, "no number"))
                continue
            best = max(known, key=lambda i: row.numbers[self.by][i])
            worst = min(known, key=lambda i: row.numbers[self.by][i])
            numbers = {self.by: [row.numbers[self.by][best], row.numbers[self.by][worst]]}
            if self.give == "chats":
                message = Message("assistant", row.answers[best])
                kept.append(
                    Chat(row.id, (*row.prompt, message), {**row.meta, self.by: numbers[self.by][0]})
                )
            elif (
                numbers[self.by][0] == numbers[self.by][1]
                or row.answers[best] == row.answers[worst]
            ):
                dropped.append(Dropped(row.id, "no difference"))
            else:
                kept.append(
                    Comparison(
                        row.id,
                        row.prompt,
                        row.answers[best],
                        row.answers[worst],
                        {**row.meta, **numbers},
                    )
                )
        return Filtered(kept, dropped)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give; no calls."""
        return Quote(rows[self.rows] * Estimate(0, 1, 1))


def own_pair(row: SampledAnswers) -> Comparison | Dropped:
    """The row's own answer over the first sampled one."""
    own = str(row.meta.get("own", ""))
    if not own.strip() or own == row.answers[0]:
        return Dropped(row.id, "no difference" if own.strip() else "no answer")
    return Comparison(row.id, row.prompt, own, row.answers[0], row.meta)
