"""SteerLM 2.0: sampled answers are weighed by how well they have the levels that were asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.chat.render import AnyRenderer
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import Answers, AnyRow
from bezoar.errors import DataError
from bezoar.model.tree import Tree, answers_tree
from bezoar.train.rows import prompt_and_answers
from bezoar.train.terms import Batch, Need, Terms, Unit

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SteerLM2:
    """Loss of a prompt x with levels a and n answers y_i sampled from the initial model Q' (arXiv 2406.08673, section 4.5):

        KL(w' || b') = sum_i w'_i log(w'_i / b'_i)                                        (equation 12)
        w' = softmax_i(log P(a|x,y_i) + log P(y_i|x) - log Q'(y_i|a,x)),
        b' = softmax_i(log Q(y_i|a,x) - log Q'(y_i|a,x)),

    whose gradient is -sum_i (w'_i - b'_i) grad log Q(y_i|a,x) (equation 11). Log-probabilities are sums over an answer's tokens
    with its end token, Q' is the stack below, the two P stand in the rows as attribute_logprob and prior_logprob. With
    `per_token` (the authors' code) the loss is divided by the mean number of tokens of the n answers. `distance`, the number to
    watch, is KL(w' || b') with 1e-8 added to both. All rows must have the same n.
    """

    per_token: bool = True
    kind: Literal["steerlm2"] = "steerlm2"
    unit: ClassVar[Unit] = "group"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def tree(self, row: AnyRow, renderer: AnyRenderer, tokenizer: Tokenizer) -> Tree:
        """The prompt, which holds the levels, with n answers; facts: log P(a|x,y_i) + log P(y_i|x)."""
        if not isinstance(row, Answers) or not {"attribute_logprob", "prior_logprob"} <= row.numbers.keys():
            raise DataError(f"row {row.id}: steerlm2 needs answers with attribute_logprob and prior_logprob; sample with attributes, reward and prior.")
        facts = tuple(a + p for a, p in zip(row.numbers["attribute_logprob"], row.numbers["prior_logprob"], strict=True))
        if len(facts) < 2 or not all(math.isfinite(fact) for fact in facts):
            raise DataError(f"row {row.id}: steerlm2 needs at least two answers, each with finite log-probabilities; remove the row.")
        trunk, answers = prompt_and_answers(row, renderer, tokenizer)
        return answers_tree(trunk, answers, facts)

    def loss(self, batch: Batch, logprobs: Tensor) -> Terms:
        """[A] -> one loss a group [R]."""
        assert batch.reference is not None
        assert batch.facts is not None
        shape = batch.facts.shape
        moved = batch.sums(logprobs - batch.reference).view(shape)
        target = (batch.facts - batch.sums(batch.reference).view(shape)).softmax(-1)
        logs = moved.log_softmax(-1)
        loss = (target * (target.clamp_min(1e-38).log() - logs)).sum(-1)
        if self.per_token:
            loss = loss / batch.lengths(logprobs).view(shape).mean(-1)
        current = logs.detach().exp()
        distance = ((target + 1e-8) * ((target + 1e-8) / (current + 1e-8)).log()).sum(-1)
        return Terms(loss, {"distance": distance, "largest_target": target.max(-1).values})
