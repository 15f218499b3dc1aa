"""Odds ratio preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, add_sft, log_odds, pair_terms, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ORPO(OnPairs):
    """Loss of a pair, with chosen answer w and rejected answer l (arXiv 2403.07691, equations 3 to
    7); no reference:

        -s log p(w) - lambda log sigmoid(beta [r(w) - r(l)]),
        p(y) = exp(mean of log pi over the tokens of y),  r(y) = log [p(y) / (1 - p(y))].

    lambda is `odds_weight`. beta is 1 in the paper; another temperature, and s = `sft_weight` 0
    where a stage of SFT went before, are those of arXiv 2502.01237. The likelihood covers the
    chosen answer's tokens with its end token, as a mean over each answer (ours: one p in both
    terms; TRL's is over prompt and answer). p near 1 is held as in ASFT.
    """

    odds_weight: float = 0.1
    beta: float = 1.0
    sft_weight: float = 1.0
    kind: Literal["orpo"] = "orpo"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        require(self, "odds_weight", "beta", from_0=("sft_weight",))

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * log_odds(batch.means(logprobs)).view(-1, 2)
        loss = -self.odds_weight * logsigmoid(rewards[:, 0] - rewards[:, 1])
        return pair_terms(add_sft(loss, self.sft_weight, batch, logprobs), rewards)
