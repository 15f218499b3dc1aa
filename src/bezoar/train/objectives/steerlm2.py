"""SteerLM 2.0: sampled answers are weighed by how well they have the levels that were asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, SampledAnswers
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, answers_group

if TYPE_CHECKING:
    from torch import Tensor


_NUMBERS = frozenset({"attribute_logprob", "prior_logprob"})


@dataclass(frozen=True)
class SteerLM2:
    """SteerLM 2.0: sampled answers are weighed by how well they have the levels asked for.

    Loss of a prompt x with levels a and n answers y_i sampled from the initial model Q':

        KL(w' || b') = sum_i w'_i log(w'_i / b'_i)
        w' = softmax_i(log P(a|x,y_i) + log P(y_i|x) - log Q'(y_i|a,x)),
        b' = softmax_i(log Q(y_i|a,x) - log Q'(y_i|a,x)),

    whose gradient is -sum_i (w'_i - b'_i) grad log Q(y_i|a,x). Log-probabilities are sums over an
    answer's tokens, with its end token unless it was cut off (`ended` 0), Q' is the stack below,
    the two P are in the rows as attribute_logprob and prior_logprob. The metric `distance` is
    KL(w' || b') with 1e-8 added to both. All rows must have the same n.

    Source: arXiv 2406.08673, section 4.5, equations 11 and 12
    Example: {kind: steerlm2, per_token: true}
    """

    per_token: bool = True
    """Divide the loss by the mean number of tokens of the n answers (the authors' code)."""
    kind: Literal["steerlm2"] = "steerlm2"
    unit: ClassVar[Unit] = "group"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})
    takes: ClassVar[RowNeed] = (RowType("sampled answers", _NUMBERS),)

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """The prompt (with the levels) and n answers; labels are log P(a|x,y_i) + log P(y_i|x)."""
        if not isinstance(row, SampledAnswers) or not row.numbers.keys() >= _NUMBERS:
            raise DataError(
                f"row {row.id}: steerlm2 needs answers with attribute_logprob and prior_logprob;"
                " sample with attributes, reward and prior."
            )
        attributes, priors = row.numbers["attribute_logprob"], row.numbers["prior_logprob"]
        labels = tuple(a + p for a, p in zip(attributes, priors, strict=True))
        if len(labels) < 2 or not all(map(math.isfinite, labels)):
            raise DataError(
                f"row {row.id}: steerlm2 needs at least two answers, each with finite"
                " log-probabilities; remove the row."
            )
        return answers_group(row, template, tokenizer, labels)

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a group [R]."""
        assert batch.reference is not None
        assert batch.labels is not None
        shape = batch.labels.shape  # [R, n]
        moved = batch.sums(logprobs - batch.reference).view(shape)
        # [R, n] distributions over the answers of a prompt: wanted, then current
        target = (batch.labels - batch.sums(batch.reference).view(shape)).softmax(-1)
        logs = moved.log_softmax(-1)
        # 0 log 0 is 0: the clamp keeps it from being nan
        loss = (target * (target.clamp_min(1e-38).log() - logs)).sum(-1)
        if self.per_token:
            loss = loss / batch.lengths(logprobs).view(shape).mean(-1)
        current = logs.detach().exp()
        distance = ((target + 1e-8) * ((target + 1e-8) / (current + 1e-8)).log()).sum(-1)
        return LossOutput(loss, {"distance": distance, "largest_target": target.max(-1).values})
