"""Attribute labels by a regression reward model, in place of people."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered
from bezoar.cost import Estimate, Quote
from bezoar.errors import DataError
from bezoar.progress import Progress
from bezoar.references import RewardRef, RowsRef
from bezoar.stage import Stage, StageContext, Stats

LOWEST, HIGHEST = 0, 4


@dataclass(frozen=True)
class Label(Stage):
    """Recipe keys. Every chat gets `meta["attributes"]` from the outputs of `model`, a reward model
    trained by regression on levels from 0 to 4: held to that range and rounded to whole numbers,
    halves up, as SteerLM's data are made."""

    rows: RowsRef
    model: RewardRef
    kind: Literal["label"] = "label"
    gives = "rows"
    renders = True

    def by_model(
        self,
        rows: Sequence[AnyRow],
        open_model: Callable[[str], Any],
        template: Template,
        *,
        progress: Progress,
        seed: int,
    ) -> Filtered[Chat]:
        """The chats with their labels; dropped ones have "no answer" or are "too long" for the
        model's context."""
        from bezoar.model.completions import reward_completions

        stack, chats = open_model(self.model), [row for row in rows if isinstance(row, Chat)]
        if len(chats) < len(rows):
            raise DataError(
                f"{self.rows}: only chats are labelled; name a stage of chats under `rows`."
            )
        if stack.score_head is None or stack.score_head.outputs == ("reward",):
            raise DataError(
                f"{self.model}: it gives no attributes; name a model that was trained with the"
                " objective regression."
            )
        answered = [row for row in chats if row.answer]
        found = [
            values
            for [values] in reward_completions(
                stack, template, [r.prompt for r in answered], [[r.answer] for r in answered]
            )
        ]
        num_outside = sum(
            not LOWEST <= value <= HIGHEST
            for values in found
            for value in values
            if not math.isnan(value)
        )
        progress.say(
            f"  {progress.stage}: {num_outside} levels lay outside {LOWEST} to {HIGHEST} and were"
            " moved to the end"
        )
        dropped = [Dropped(row.id, "no answer") for row in chats if not row.answer]
        kept = []
        for row, values in zip(answered, found, strict=True):
            if math.isnan(values[0]):
                dropped.append(Dropped(row.id, "too long"))
            else:
                kept.append(
                    labelled(
                        row, dict(zip(stack.score_head.outputs, map(level, values), strict=True))
                    )
                )
        return Filtered(kept, dropped)

    def run(self, context: StageContext) -> Stats:
        """Label the chats and write them."""
        rows = context.rows(self.rows)
        labelled_rows = self.by_model(
            rows, context.open_model, context.template, progress=context.progress, seed=context.seed
        )
        return context.write_rows(labelled_rows, len(rows))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; no requests."""
        return Quote(rows[self.rows])


def level(value: float) -> int:
    """The nearest level, halves up."""
    return math.floor(min(max(value, LOWEST), HIGHEST) + 0.5)


def labelled(row: Chat, attributes: dict[str, Any], **more: Any) -> Chat:
    """The row with attributes in its `meta`, and whatever else."""
    return replace(row, meta={**row.meta, "attributes": attributes, **more})
