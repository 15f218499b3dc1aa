"""Stages about the levels in `meta["attributes"]`: predict them, train on them, pair by them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.attribute_levels import steered
from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.types import (
    AnyRow,
    Chat,
    Comparison,
    Dropped,
    Filtered,
    Messages,
    as_chat,
    as_chats,
    ended,
)
from bezoar.cost import Estimate, Quote
from bezoar.errors import DataError, brief
from bezoar.judge.stages import RowFilter, RuleFilter, with_meta
from bezoar.model.completions import reward_completions
from bezoar.model.spec import RewardWeights
from bezoar.references import RewardRef, RowsRef
from bezoar.stage import Outputs, Rows, Stage, StageContext, Stats

LOWEST, HIGHEST = 0, 4


def attribute_keys(names: Iterable[str]) -> list[str]:
    """What rows with these attributes carry."""
    return ["attributes", *(f"attributes.{name}" for name in names)]


def level(value: float) -> int:
    """The nearest level, halves up."""
    return math.floor(min(max(value, LOWEST), HIGHEST) + 0.5)


@dataclass(frozen=True)
class Label(Stage):
    """A reward model trained by regression gives each chat its attribute levels.

    Its outputs are held to 0 to 4 and rounded to whole numbers, halves up.

    Source: SteerLM, arXiv 2310.05344, step 2
    Example: {kind: label, rows: chats, model: regression}
    """

    rows: RowsRef
    """The stage whose chats are labelled."""
    model: RewardRef
    """A reward model with the objective `regression`."""
    kind: Literal["label"] = "label"
    gives = "rows"
    renders = True

    def takes(self) -> Mapping[str, RowNeed]:
        """Chats; a pair would have to be labelled twice."""
        return {"rows": (RowType("chats"),)}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """The chats with the outputs of the model as attributes."""
        return rows[self.rows].adding(*attribute_keys(outputs.get(self.model, ())))

    def run(self, context: StageContext) -> Stats:
        """Label the chats and write them."""
        rows = context.rows(self.rows)
        return context.write_rows(self.label(rows, context), len(rows))

    def label(self, rows: Sequence[AnyRow], context: StageContext) -> Filtered[Chat]:
        """The chats with levels; dropped ones have "no answer" or are "too long" for the model."""
        stack, chats = context.open_model(self.model), [r for r in rows if isinstance(r, Chat)]
        if len(chats) < len(rows):
            raise DataError(f"{self.rows}: only chats are labelled; name a stage of chats.")
        if stack.score_head is None or stack.score_head.outputs == ("reward",):
            raise DataError(
                f"{self.model}: it gives no attributes; name a model that was trained with the"
                " objective regression."
            )
        # 1) Score all answers in one call; the longest texts come out as nan.
        names = stack.score_head.outputs
        answered = [row for row in chats if row.answer]
        prompts, answers = [row.prompt for row in answered], [[row.answer] for row in answered]
        outputs = reward_completions(stack, context.template, prompts, answers)
        # 2) Say how many levels were moved: many of them mean a reward model of another scale.
        num_outside = sum(
            value < LOWEST or value > HIGHEST  # not for nan, of a text that is too long
            for [values] in outputs
            for value in values
        )
        text = f"{num_outside} levels lay outside {LOWEST} to {HIGHEST} and were moved to the end"
        context.progress.say(f"  {context.progress.stage}: {text}")
        # 3) Round, and count what could not be labelled.
        results: list[Chat | Dropped] = []
        for row, [values] in zip(answered, outputs, strict=True):
            if math.isnan(values[0]):
                results.append(Dropped(row.id, "too long"))
            else:
                levels = dict(zip(names, map(level, values), strict=True))
                results.append(with_meta(row, attributes=levels))
        labelled = Filtered.split(results)
        unanswered = [Dropped(row.id, "no answer") for row in chats if not row.answer]
        return Filtered(labelled.rows, [*unanswered, *labelled.dropped])

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; no requests."""
        return Quote(rows[self.rows])


@dataclass(frozen=True)
class Steer(RowFilter):
    """Writes each chat's attribute levels into its system message, for fine-tuning on them.

    The levels come from people or from the stages `label` and `attributes`. Train on the chats with
    `{kind: sft, loss_on: last}`: the levels are those of the last answer.

    Source: SteerLM, arXiv 2310.05344, step 3
    Example: {kind: steer, rows: labelled, only: [helpfulness, verbosity]}
    """

    only: tuple[str, ...] = ()
    """Attributes that are written, all of which a chat must have; empty for those it has."""
    kind: Literal["steer"] = "steer"

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with the attributes that are written."""
        keys = frozenset(attribute_keys(self.only))
        return {"rows": (RowType("chats", keys), RowType("comparisons", keys))}

    def each(self, rows: Rows, work_dir: Path | None = None) -> Iterator[Chat | Dropped]:
        """The steered chats; others have "no attributes". DataError for what is no level."""
        return (self._steered(as_chat(row)) for row in rows)

    def _steered(self, row: Chat) -> Chat | Dropped:
        attributes = row.meta.get("attributes") or {}
        is_table = isinstance(attributes, dict)
        names = [n for n in self.only or attributes if n in attributes] if is_table else []
        if not is_table or not all(_is_level(attributes[name]) for name in names):
            shown = brief(repr(attributes), 200)
            raise DataError(
                f"row {row.id}: meta.attributes is {shown}, not a table of levels 0 to 4; mend it."
            )
        # A chat that lacks one of `only` would teach the model that its level does not matter.
        levels = {name: level(attributes[name]) for name in names}
        if not levels or len(levels) < len(self.only):
            return Dropped(row.id, "no attributes")
        return replace(row, messages=steered(row.messages, levels))


def _is_level(value: Any) -> bool:
    return isinstance(value, (int, float)) and LOWEST <= value <= HIGHEST


@dataclass(frozen=True)
class AttributePairs(RuleFilter):
    """The best and the worst of the labelled answers to one prompt become a comparison.

    `meta["strength"]` is the difference of their scores.

    Source: HelpSteer2, arXiv 2406.08673, section 4
    Example: {kind: attribute_pairs, rows: labelled, weights: {helpfulness: 1.0}}
    """

    weights: dict[str, float] = field(default_factory=lambda: {"helpfulness": 1.0})
    """Weight of each attribute in an answer's score; all chats must have these attributes."""
    kind: Literal["attribute_pairs"] = "attribute_pairs"
    # two answers for each prompt, and a quarter of ties
    kept_share = Estimate(0, 0.375, 0.5)
    row_by_row = False

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("weights must name at least one attribute")

    def takes(self) -> Mapping[str, RowNeed]:
        """Chats with every attribute that has a weight."""
        return {"rows": (RowType("chats", frozenset(attribute_keys(self.weights))),)}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Pairs with the strength of the preference."""
        return RowType("comparisons", frozenset({"strength"}))

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Comparison]:
        """A pair for each prompt; dropped ones have "no second answer" or are a "tie".

        DataError for a row without a weighted attribute.
        """
        # By the whole prompt, not by id: rows of several stages may answer the same prompt.
        groups: dict[Messages, list[tuple[float, Chat]]] = {}
        for row in as_chats(rows):
            groups.setdefault(row.prompt, []).append((self._score(row), row))
        return Filtered.split(self._pair(scored) for scored in groups.values())

    def _pair(self, scored: list[tuple[float, Chat]]) -> Comparison | Dropped:
        # Of equal scores the first row counts, as max and min both keep the first.
        high, best = max(scored, key=lambda score_and_row: score_and_row[0])
        low, worst = min(scored, key=lambda score_and_row: score_and_row[0])
        if len(scored) == 1:
            return Dropped(best.id, "no second answer", f"{high:g}")
        if high == low:
            return Dropped(best.id, "tie", f"{high:g}")
        meta = {"strength": round(high - low, 6), "chosen": best.id, "rejected": worst.id}
        whole = [*ended(best), *ended(worst)]
        meta |= {} if all(whole) else {"ended": whole}
        return Comparison(best.id, best.prompt, best.answer, worst.answer, meta)

    def _score(self, row: Chat) -> float:
        levels = row.meta.get("attributes") or {}
        values = [levels.get(name) for name in self.weights] if isinstance(levels, dict) else [None]
        if not all(isinstance(value, (int, float)) for value in values):
            raise DataError(
                f"row {row.id}: it lacks one of the attributes {', '.join(self.weights)}; label the"
                " rows first (kind: label or attributes)."
            )
        return RewardWeights(self.weights).score(list(levels), list(levels.values()))
