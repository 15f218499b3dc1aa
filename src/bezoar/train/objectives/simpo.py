"""Simple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.bounds import NotNegative, Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SimPO(OnPairs):
    """Simple preference optimisation of pairs, without a reference.

    Loss of a pair, with chosen answer w and rejected answer l, lengths with the end token:

        -log sigmoid(beta / |w| log pi(w|x) - beta / |l| log pi(l|x) - gamma).

    Source: arXiv 2405.14734, equation 6
    Example: {kind: simpo, beta: 2.0, gamma: 1.0}
    """

    beta: Positive = 2.0
    """Scale of the mean log-probabilities."""
    gamma: NotNegative = 1.0
    """Margin that is wanted: the paper's; some codes take gamma / beta."""
    kind: Literal["simpo"] = "simpo"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * batch.means(logprobs).view(-1, 2)
        return pair_terms(-logsigmoid(rewards[:, 0] - rewards[:, 1] - self.gamma), rewards)
