"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.bounds import Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, log_ratios, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IPO(OnPairs):
    """Identity preference optimisation of pairs, against a reference.

    Loss of a pair, with chosen answer w and rejected answer l (beta is the paper's tau):

        (d - 1 / (2 beta))^2,  d = log [pi(w|x) / ref(w|x)] - log [pi(l|x) / ref(l|x)].

    Source: arXiv 2310.12036, equation 17
    Example: {kind: ipo, beta: 0.1}
    """

    beta: Positive = 0.1
    """The log-ratios are drawn apart to 1 / (2 beta)."""
    normalise: Literal["token", "none"] = "token"
    """A log-ratio is a mean over the answer's tokens (as in TRL) or, with none, their sum."""
    kind: Literal["ipo"] = "ipo"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        ratios = log_ratios(batch, logprobs)
        reduce = batch.means if self.normalise == "token" else batch.sums
        scores = reduce(ratios).view(-1, 2)  # [P, 2]
        loss = (scores[:, 0] - scores[:, 1] - 1 / (2 * self.beta)) ** 2
        return pair_terms(loss, self.beta * scores)
