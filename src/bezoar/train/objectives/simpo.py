"""Simple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, pair_terms, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SimPO(OnPairs):
    """Loss of a pair, with chosen answer w and rejected answer l (arXiv 2405.14734, equation 6); no
    reference:

        -log sigmoid(beta / |w| log pi(w|x) - beta / |l| log pi(l|x) - gamma),

    lengths in tokens with the end token. `gamma` is the paper's own; some codes take the ratio
    gamma / beta.
    """

    beta: float = 2.0
    gamma: float = 1.0
    kind: Literal["simpo"] = "simpo"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        require(self, "beta", from_0=("gamma",))

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * batch.means(logprobs).view(-1, 2)
        return pair_terms(-logsigmoid(rewards[:, 0] - rewards[:, 1] - self.gamma), rewards)
