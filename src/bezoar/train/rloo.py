"""REINFORCE with a leave-one-out baseline. Imports no torch before a stage runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.group_policy import GroupPolicy
from bezoar.train.settings import StageInputs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RLOO(GroupPolicy):
    """REINFORCE of a new adapter, with the mean of the other answers to a prompt as the baseline.

    The return of an answer is its reward less kl times log pi_old(y|x) - log ref(y|x); its
    advantage, that of all its tokens, is the return less the mean return of the other `samples - 1`
    answers. The loss of a token is -min(q A, clip(q, 1 - clip, 1 + clip) A), q = exp(log pi -
    log pi_old), which with one optimizer step an update is REINFORCE. Ours: the ratio is that of
    the token, and the sum is divided by the number of tokens of the whole optimizer step.

    Source: arXiv 2402.14740
    Example: {kind: rloo, model: sft, rows: sums, rewards: [{kind: number}]}
    """

    kind: Literal["rloo"] = "rloo"

    def advantages(self, scores: Tensor, log_ratios: Tensor) -> Tensor:
        """The return less the mean of the others', [N]."""
        from bezoar.train.advantage import leave_one_out

        # the KL is part of the return: the baseline takes its mean away as well
        return leave_one_out(scores - self.kl * log_ratios, self.samples)

    def token_losses(
        self, logprobs: Tensor, old: Tensor, reference: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        from bezoar.train.advantage import policy_losses

        return policy_losses(logprobs, old, advantage, clip=self.clip)

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        from bezoar.train.group_trainer import train

        return train(self, rows, inputs, progress=progress, seed=seed)
