"""Direct preference optimisation, with smoothed labels and with a likelihood term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from bezoar.bounds import NotNegative, Positive
from bezoar.train.objective import LossInputs, LossOutput, Need
from bezoar.train.objectives.pairs import OnPairs, add_sft, log_ratios, pair_terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPO(OnPairs):
    """Direct preference optimisation of pairs, against a reference.

    Loss of a pair, with chosen answer w and rejected answer l:

        l(d) = -log sigmoid(beta d),
        d = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)],

    where a log-probability of an answer is the sum over its tokens and ref is the stack below the
    adapter that trains. With e = `label_smoothing`:

        conservative: (1 - e) l(d) + e l(-d)
        robust:       [(1 - e) l(d) - e l(-d)] / (1 - 2e), unbiased, and not bounded below.

    Source: arXiv 2305.18290, equation 7; conservative: cDPO, Mitchell 2023; robust: arXiv
        2403.00409; sft_weight: arXiv 2404.19733, equation 1 (alpha)
    Example: {kind: dpo, beta: 0.1}
    """

    beta: Positive = 0.1
    """Strength of the tie to the reference: lower moves further away."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs believed to be labelled the wrong way round."""
    smoothing: Literal["conservative", "robust"] = "conservative"
    """How label_smoothing enters the loss."""
    sft_weight: NotNegative = 0.0
    """Weight of the chosen answer's mean negative log-likelihood."""
    kind: Literal["dpo"] = "dpo"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __post_init__(self) -> None:
        if self.smoothing == "robust" and not self.label_smoothing:
            raise ValueError(
                "smoothing: robust has no effect with label_smoothing 0; set the share of wrong"
                " labels"
            )

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a pair [P]."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * batch.sums(log_ratios(batch, logprobs)).view(-1, 2)
        margin, e = rewards[:, 0] - rewards[:, 1], self.label_smoothing
        right, wrong = -(1 - e) * logsigmoid(margin), -e * logsigmoid(-margin)
        loss = (right - wrong) / (1 - 2 * e) if self.smoothing == "robust" else right + wrong
        return pair_terms(add_sft(loss, self.sft_weight, batch, logprobs), rewards)
