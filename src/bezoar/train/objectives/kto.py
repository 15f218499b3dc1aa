"""Kahneman-Tversky optimisation: answers that are good or bad, each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.bounds import Positive
from bezoar.chat.row_types import COMPARISONS, RowNeed, RowType
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Comparison
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, answers_group
from bezoar.train.objectives.pairs import log_ratios, share_right

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky optimisation of good and bad answers, against a reference.

    Loss of an answer y to x:

        weight (1 - sigmoid(beta (r - z))) if y is desirable,
        weight (1 - sigmoid(beta (z - r))) if it is not,
        r = log pi(y|x) - log ref(y|x), sums over tokens,
        z = max(0, mean over the step of log pi(y'|x) - log ref(y'|x)), without a gradient,

    with y' an answer to another row's prompt: an estimate of KL(pi || ref). The mean is over the
    step where the paper takes a micro-batch, so that it does not depend on how the step is cut. A
    comparison gives its chosen answer as desirable and its rejected one as not; a chat gives its
    last answer, judged by `meta["desirable"]`, true or false.

    Source: arXiv 2402.01306, equation 8
    Example: {kind: kto, desirable_weight: 1.5}
    """

    beta: Positive = 0.1
    """Scale of the log-ratios."""
    desirable_weight: Positive = 1.0
    """Weight of good answers: evens out unequal numbers of the two."""
    undesirable_weight: Positive = 1.0
    """Weight of bad answers."""
    kind: Literal["kto"] = "kto"
    unit: ClassVar[Unit] = "answer"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference", "baseline"})
    takes: ClassVar[RowNeed] = (COMPARISONS, RowType("chats", frozenset({"desirable"})))

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """The prompt and its answers; the labels are 1 for a desirable answer, else 0."""
        labels: tuple[float, ...] = (1.0, 0.0)
        if not isinstance(row, Comparison):
            desirable = row.meta.get("desirable") if isinstance(row, Chat) else None
            if not isinstance(desirable, bool):
                raise DataError(
                    f"row {row.id}: kto needs comparisons, or chats with meta.desirable true or"
                    " false; add it."
                )
            labels = (float(desirable),)
        return answers_group(row, template, tokenizer, labels)

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss an answer [N]. `margin` is beta (r - z) towards the label."""
        import torch

        assert batch.labels is not None
        assert batch.baseline is not None
        good = batch.labels.flatten() > 0
        rewards = self.beta * batch.sums(log_ratios(batch, logprobs))
        # an estimate of a KL, which is never below 0
        z = batch.baseline.clamp(min=0)
        margin = torch.where(good, 1.0, -1.0) * (rewards - self.beta * z)
        weight = torch.where(good, self.desirable_weight, self.undesirable_weight)
        loss, margin = weight * torch.sigmoid(-margin), margin.detach()
        accuracy, kl = share_right(margin), z.expand_as(margin)
        metrics = {"margin": margin, "accuracy": accuracy, "reward": rewards.detach(), "kl": kl}
        return LossOutput(loss, metrics)
