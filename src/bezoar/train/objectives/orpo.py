"""Odds ratio preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.bounds import NotNegative, Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, add_sft, log_odds, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ORPO(OnPairs):
    """Odds ratio preference optimisation of pairs, without a reference.

    Loss of a pair, with chosen answer w and rejected answer l:

        -s log p(w) - lambda log sigmoid(beta [r(w) - r(l)]),
        p(y) = exp(mean of log pi over the tokens of y),  r(y) = log [p(y) / (1 - p(y))],

    lambda `odds_weight` and s `sft_weight`. The likelihood covers the chosen answer's tokens with
    its end token, as a mean over each answer (ours: one p in both terms; TRL's is over prompt and
    answer). log(1 - p) takes p at most 1 - 1e-7.

    Source: arXiv 2403.07691, equations 3 to 7; beta and sft_weight: arXiv 2502.01237
    Example: {kind: orpo, odds_weight: 0.1}
    """

    odds_weight: Positive = 0.1
    """Weight lambda of the odds ratio."""
    beta: Positive = 1.0
    """Scale of the log-odds; the paper's is 1."""
    sft_weight: NotNegative = 1.0
    """Weight of the likelihood; 0 after a stage of SFT."""
    kind: Literal["orpo"] = "orpo"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * log_odds(batch.means(logprobs)).view(-1, 2)
        loss = -self.odds_weight * logsigmoid(rewards[:, 0] - rewards[:, 1])
        return pair_terms(add_sft(loss, self.sft_weight, batch, logprobs), rewards)
