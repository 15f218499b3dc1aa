"""Group relative policy optimisation. Imports no torch before a stage runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bezoar.bounds import Natural, Positive
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.group_policy import GroupPolicy
from bezoar.train.settings import StageInputs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GRPO(GroupPolicy):
    """Group relative policy optimisation of a new adapter, with rewards by programs and models.

    An update draws `samples` answers to each of `batch_size / samples` prompts; the loss of token t
    of answer i, with q = exp(log pi - log pi_old) and d = log ref - log pi, is

        -min(q A_i, clip(q, 1 - clip, 1 + clip_high) A_i) + kl (exp(d) - d - 1),

        A_i = (r_i - mean r) / (std r + 1e-4) over the answers to one prompt.

    The standard deviation is the unbiased one (n - 1) and 1e-4 is added, as in TRL; the paper says
    neither. A prompt whose answers all have one reward gives A = 0, exactly. Losses are summed and
    divided once by the number of tokens of the whole optimizer step (DAPO's token-level loss).

    Options: `average: answer` divides by the tokens of each answer first (the paper's).
    `scale: none` with `average: constant` is Dr. GRPO: no standard deviation, and the sum is
    divided by answers times max_tokens. DAPO is `clip_high: 0.28`, `kl: 0`, `dynamic_sampling`
    (prompts whose answers all have one reward make room for others), and of long answers
    `cut_off: mask` (overlong filtering) or `overlong_buffer` (soft overlong punishment).

    Ours: an adapter and its learning rate; the reward of an answer that was cut off is
    `missing_end`, whatever it says; no old policy but that of the update.

    Source: arXiv 2402.03300, equations 3 and 4; DAPO: arXiv 2503.14476; Dr. GRPO: arXiv 2503.20783
    Example: {kind: grpo, model: sft, rows: sums, rewards: [{kind: number}]}
    """

    scale: Literal["group", "none"] = "group"
    """group: advantages are divided by the standard deviation of the group's rewards."""
    average: Literal["token", "answer", "constant"] = "token"
    """What the loss is a mean over: tokens, answers of token means, or answers times max_tokens."""
    clip_high: Positive | None = None
    """Upper bound of the ratio, as 1 + clip_high (DAPO's clip-higher); default: clip."""
    cut_off: Literal["train", "mask"] = "train"
    """mask: an answer that was cut off is part of the group, but has no loss (DAPO)."""
    overlong_buffer: Natural = 0
    """Last tokens of max_tokens over which the reward falls by up to 1 (DAPO); 0: it does not."""
    kind: Literal["grpo"] = "grpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlong_buffer >= self.max_tokens:
            raise ValueError("overlong_buffer must be below max_tokens; lower it")

    def advantages(self, scores: Tensor, log_ratios: Tensor) -> Tensor:
        """(r - mean) / (std + 1e-4) in each group, [N]."""
        groups = scores.view(-1, self.samples)
        gains = groups - groups.mean(1, keepdim=True)
        if self.scale == "group":
            gains = gains / (groups.std(1, keepdim=True) + 1e-4)
        # the mean of equal numbers may differ from them by rounding
        is_flat = groups.amax(1, keepdim=True) == groups.amin(1, keepdim=True)
        return gains.masked_fill(is_flat, 0.0).flatten()

    def token_losses(
        self, logprobs: Tensor, old: Tensor, reference: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        from bezoar.train.advantage import policy_losses

        losses, clipped = policy_losses(
            logprobs, old, advantage, clip=self.clip, clip_high=self.clip_high
        )
        # with its own gradient, unlike a penalty in the reward, so that it acts without a critic
        gap = reference - logprobs
        # never below 0, and in the mean over answers the KL (Schulman's k3)
        return losses + self.kl * (gap.exp() - gap - 1), clipped

    def weights(self, mask: Tensor, ended: Tensor) -> Tensor:
        """One over: all tokens; an answer's tokens times the answers; max_tokens times answers."""
        counted = mask * ended[:, None] if self.cut_off == "mask" else mask
        # with the whole step as divisor, tokens weigh alike in whatever micro-batch they are read
        if self.average == "token":
            return counted / counted.sum().clamp(min=1)
        lengths = mask.sum(1, keepdim=True) if self.average == "answer" else self.max_tokens
        return counted / lengths / len(mask)

    def length_penalty(self, num_tokens: int) -> float:
        """DAPO's soft overlong punishment (equation 13)."""
        over = num_tokens - (self.max_tokens - self.overlong_buffer)
        return max(0, over) / self.overlong_buffer if self.overlong_buffer else 0.0

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        from bezoar.train.group_trainer import train

        return train(self, rows, inputs, progress=progress, seed=seed)
