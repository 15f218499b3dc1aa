"""Aligned supervised fine-tuning through absolute likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.bounds import NotNegative, Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, add_sft, log_odds, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ASFT(OnPairs):
    """Aligned supervised fine-tuning on pairs (not "anchored"), without a reference.

    Loss of a pair, with chosen answer w and rejected answer l:

        -s log p(w) - lambda [log sigmoid(beta r(w)) + log sigmoid(-beta r(l))],
        p(y) = exp(mean of log pi over the tokens of y),  r(y) = log [p(y) / (1 - p(y))],

    lambda `odds_weight` and s `sft_weight`. Each answer is judged for itself: with beta = 1 the
    bracket is log p(w) + log(1 - p(l)), an upper bound of ORPO's term. Ours: the likelihood covers
    the chosen answer's tokens with its end token; log(1 - p) takes p at most 1 - 1e-7, so a
    rejected answer that is certain beyond that is not pushed. Computed in float32.

    Source: arXiv 2409.10571, as in arXiv 2502.01237, section 2.4
    Example: {kind: asft, odds_weight: 1.0}
    """

    odds_weight: Positive = 1.0
    """Weight lambda of the odds."""
    beta: Positive = 1.0
    """Scale of the log-odds; the paper's is 1."""
    sft_weight: NotNegative = 1.0
    """Weight of the likelihood; 0 after a stage of SFT."""
    kind: Literal["asft"] = "asft"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]. `p_chosen` and `p_rejected` are the p(y) of the formula."""
        from torch.nn.functional import logsigmoid

        means = batch.means(logprobs)
        rewards, p = self.beta * log_odds(means).view(-1, 2), means.exp().view(-1, 2)
        loss = -self.odds_weight * (logsigmoid(rewards[:, 0]) + logsigmoid(-rewards[:, 1]))
        return pair_terms(
            add_sft(loss, self.sft_weight, batch, logprobs),
            rewards,
            p_chosen=p[:, 0],
            p_rejected=p[:, 1],
        )
