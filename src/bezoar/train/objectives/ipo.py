"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, log_ratios, pair_terms, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IPO(OnPairs):
    """Loss of a pair, with chosen answer w and rejected answer l (arXiv 2310.12036, equation 17;
    beta is its tau):

        (d - 1 / (2 beta))^2,  d = log [pi(w|x) / ref(w|x)] - log [pi(l|x) / ref(l|x)].

    The equation does not say how a log-ratio weighs an answer's length. `normalise: token` takes
    the mean over the answer's tokens, as TRL does after asking the authors; `none` takes the sum,
    as the equation reads.
    """

    beta: float = 0.1
    normalise: Literal["token", "none"] = "token"
    kind: Literal["ipo"] = "ipo"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __post_init__(self) -> None:
        require(self, "beta")

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        ratios = log_ratios(batch, logprobs)
        scores = (batch.means(ratios) if self.normalise == "token" else batch.sums(ratios)).view(
            -1, 2
        )
        loss = (scores[:, 0] - scores[:, 1] - 1 / (2 * self.beta)) ** 2
        return pair_terms(loss, self.beta * scores)
