"""A reward model from pairs: the likelihood of the preferences that people gave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Comparison
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup, score_group
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, prompt_and_answers
from bezoar.train.objectives.pairs import pair_terms, require_pair

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BradleyTerry:
    """Reward model from pairs: the likelihood of the preferences that people gave.

    Loss of a pair with rewards r_c and r_r of the chosen and the rejected answer, read at their
    end-of-turn tokens:

        plain   -log sigmoid(r_c - r_r)
        margin  -log sigmoid(r_c - r_r - m)
        scaled  -m log sigmoid(r_c - r_r)

    m is the size of the pair's `meta["strength"]` (1 slightly, 2 better, 3 much better); scaled
    losses are divided by the number of pairs, not by the sum of m. Only differences of rewards are
    learned: what is added to all of them is arbitrary.

    Source: Bradley and Terry 1952; arXiv 2203.02155, equation 1; margin, scaled: arXiv 2410.01257
    Example: {kind: bradley_terry, loss_type: plain}
    """

    loss_type: Literal["plain", "margin", "scaled"] = "plain"
    """margin and scaled need the strength of each preference."""
    output: str = "reward"
    """Name of the reward; a regression model's one attribute goes on from that head."""
    kind: Literal["bradley_terry"] = "bradley_terry"
    unit: ClassVar[Unit] = "pair"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    @property
    def outputs(self) -> tuple[str, ...]:
        """The reward."""
        return (self.output,)

    @property
    def takes(self) -> RowNeed:
        """Pairs, with their strength where the loss reads it."""
        carried = frozenset[str]() if self.loss_type == "plain" else frozenset({"strength"})
        return (RowType("comparisons", carried),)

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """The prompt and its two answers: chosen, rejected. DataError if a strength is missing."""
        pair = require_pair(row)
        labels = () if self.loss_type == "plain" else (_strength(pair),)
        return score_group(*prompt_and_answers(pair, template, tokenizer), labels)

    def loss(self, batch: LossInputs, scores: Tensor) -> LossOutput:
        """[N, 1] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = scores.view(-1, 2)  # [P, 2]
        margin = rewards[:, 0] - rewards[:, 1]
        if self.loss_type == "plain":
            return pair_terms(-logsigmoid(margin), rewards)
        assert batch.labels is not None
        strength = batch.labels[:, 0]
        if self.loss_type == "margin":
            return pair_terms(-logsigmoid(margin - strength), rewards)
        return pair_terms(-strength * logsigmoid(margin), rewards)


def _strength(row: Comparison) -> float:
    """The size of the row's strength."""
    value = row.meta.get("strength")
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value == 0:
        raise DataError(
            f"row {row.id}: meta.strength is {value!r}, and this loss needs a number other than 0;"
            " use loss_type: plain or other rows."
        )
    return abs(float(value))
