"""A reward model from scores: several attributes of an answer at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import Chat, Comparison
from bezoar.data.helpsteer2 import ATTRIBUTES
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup, score_group
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, prompt_and_answers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """Loss of a label: (f - label)^2, f being the attribute's output at the end-of-turn token
    (HelpSteer2, arXiv 2406.08673, section 3, and the SteerLM regression model of its authors' code,
    which masks labels that are unknown):

        L = sum_ik m_ik (f_ik - label_ik)^2 / sum_ik m_ik,   m_ik = 1 where answer i has a label of
    attribute k.

    The unit is the label, not the answer, so that both sums run over the whole step: an answer with
    one label of five counts a fifth of one with all. A chat's labels are `meta["attributes"]`, by
    name; those of a comparison's two answers are `meta["NAME_chosen"]` and `meta["NAME_rejected"]`
    (such as UltraFeedback's score), which then share their prompt.
    """

    attributes: tuple[str, ...] = ATTRIBUTES
    kind: Literal["regression"] = "regression"
    unit: ClassVar[Unit] = "label"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise ValueError(
                "attributes must name at least one attribute, each once; change the list"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The attributes."""
        return self.attributes

    def group(
        self, row: Chat | Comparison, template: Template, tokenizer: Tokenizer
    ) -> PromptGroup:
        """The prompt with its answers, and their labels as facts, nan where unknown. DataError when
        none is known."""
        prompt, answers = prompt_and_answers(row, template, tokenizer)
        labels = tuple(
            _label(row, given.get(name))
            for given in _given(row, self.attributes)
            for name in self.attributes
        )
        if all(math.isnan(fact) for fact in labels):
            where = (
                "meta.attributes" if isinstance(row, Chat) else f"meta.{self.attributes[0]}_chosen"
            )
            raise DataError(
                f"row {row.id}: it has no label of {', '.join(self.attributes)} in {where}; use"
                " other rows or attributes."
            )
        return score_group(prompt, answers, labels)

    def loss(self, batch: LossInputs, scores: Tensor) -> LossOutput:
        """[N, K] -> one loss a label."""
        assert batch.labels is not None
        labels = batch.labels.view(scores.shape)
        known = ~labels.isnan()
        error = scores[known] - labels[known]
        return LossOutput(error**2, {"absolute_error": error.detach().abs()})


def _given(row: Chat | Comparison, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What is known of each answer of the row, by attribute."""
    if isinstance(row, Comparison):
        return [
            {name: row.meta.get(f"{name}_{side}") for name in names}
            for side in ("chosen", "rejected")
        ]
    given = row.meta.get("attributes")
    return [given if isinstance(given, dict) else {}]


def _label(row: Chat | Comparison, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(
            f"row {row.id}: an attribute is {value!r}, not a number; mend the row or leave the"
            " attribute out."
        )
    return float(value)
