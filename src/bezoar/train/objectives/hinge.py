"""The hinge loss on preferences: RSO's, and without a reference SLiC-HF's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bezoar.bounds import NotNegative, Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, add_sft, log_ratios, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hinge(OnPairs):
    """Hinge loss on pairs: RSO's, and without a reference SLiC-HF's.

    Loss of a pair, with chosen answer w and rejected answer l:

        max(0, 1 - beta d),  d = log [pi(w|x) / ref(w|x)] - log [pi(l|x) / ref(l|x)],

    sums over an answer's tokens. Without a reference d = log pi(w|x) - log pi(l|x), the loss of
    SLiC-HF in units of its margin delta = 1 / beta. Its likelihood term is on an SFT target; that
    ours is on the chosen answer, as a mean over tokens, is our choice.

    Source: arXiv 2309.06657 (hinge-norm); without reference arXiv 2305.10425, equation 4
    Example: {kind: hinge, reference: false}
    """

    beta: Positive = 0.1
    """Inverse of the margin beyond which a pair has no loss."""
    reference: bool = True
    """Compare with the stack below; false is SLiC-HF."""
    sft_weight: NotNegative = 0.0
    """Weight of the chosen answer's mean negative log-likelihood."""
    kind: Literal["hinge"] = "hinge"

    @property
    def needs(self) -> frozenset[Need]:
        """The reference, if it is asked for."""
        return frozenset({"reference"}) if self.reference else frozenset()

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        values = log_ratios(batch, logprobs) if self.reference else logprobs
        rewards = self.beta * batch.sums(values).view(-1, 2)
        loss = (1 - rewards[:, 0] + rewards[:, 1]).relu()
        return pair_terms(add_sft(loss, self.sft_weight, batch, logprobs), rewards)
