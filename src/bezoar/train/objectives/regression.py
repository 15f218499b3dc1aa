"""A reward model from scores: several attributes of an answer at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bezoar.chat.row_types import RowNeed, RowType
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
    """Reward model from scores: several attributes of an answer at once.

    Loss of a label: (f - label)^2, f being the attribute's output at the end-of-turn token. Over a
    step:

        L = sum_ik m_ik (f_ik - label_ik)^2 / sum_ik m_ik,
        m_ik = 1 where answer i has a label of attribute k.

    The unit is the label, not the answer, so that both sums run over the whole step: an answer with
    one label of five counts a fifth of one with all. A chat's labels are `meta["attributes"]`, by
    name; those of a comparison's two answers are `meta["NAME_chosen"]` and `meta["NAME_rejected"]`
    (such as UltraFeedback's score), which then share their prompt.

    Source: arXiv 2406.08673, section 3; unknown labels are masked as in its authors' code
    Example: {kind: regression, attributes: [helpfulness, verbosity]}
    """

    attributes: tuple[str, ...] = ATTRIBUTES
    """Names of the labels, each an output of the head; default: HelpSteer2's five."""
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

    @property
    def takes(self) -> RowNeed:
        """Chats with one of the attributes, or pairs with one for an answer."""
        chats = [RowType("chats", frozenset({f"attributes.{name}"})) for name in self.attributes]
        sides = [f"{name}_{side}" for side in ("chosen", "rejected") for name in self.attributes]
        return (*chats, *(RowType("comparisons", frozenset({side})) for side in sides))

    def group(
        self, row: Chat | Comparison, template: Template, tokenizer: Tokenizer
    ) -> PromptGroup:
        """The prompt, its answers and their labels, nan if unknown. DataError if none is known."""
        prompt, answers = prompt_and_answers(row, template, tokenizer)
        labels = tuple(
            _label(row, values.get(name))
            for values in _values(row, self.attributes)
            for name in self.attributes
        )
        if all(math.isnan(label) for label in labels):
            names, first = ", ".join(self.attributes), f"{self.attributes[0]}_chosen"
            key = "attributes" if isinstance(row, Chat) else first
            raise DataError(
                f"row {row.id}: it has no label of {names} in meta.{key}; use other rows or"
                " attributes."
            )
        return score_group(prompt, answers, labels)

    def loss(self, batch: LossInputs, scores: Tensor) -> LossOutput:
        """[N, K] -> one loss a label."""
        assert batch.labels is not None
        labels = batch.labels.view(scores.shape)
        # select before squaring: nan times 0 is nan, also in the gradient
        known = ~labels.isnan()
        error = scores[known] - labels[known]
        return LossOutput(error**2, {"absolute_error": error.detach().abs()})


def _values(row: Chat | Comparison, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The values of each answer of the row, by attribute."""
    if isinstance(row, Comparison):
        return [
            {name: row.meta.get(f"{name}_{side}") for name in names}
            for side in ("chosen", "rejected")
        ]
    values = row.meta.get("attributes")
    return [values if isinstance(values, dict) else {}]


def _label(row: Chat | Comparison, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(
            f"row {row.id}: an attribute is {value!r}, not a number; mend the row or leave the"
            " attribute out."
        )
    return float(value)
