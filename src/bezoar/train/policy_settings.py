"""The recipe keys that all training on drawn answers has. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from bezoar.bounds import Count, Positive
from bezoar.launch import TrainLaunch
from bezoar.model.spec import LoRA
from bezoar.train.settings import Optimizer, Schedule


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """The keys of PPO, GRPO and RLOO; their defaults are PPO's."""

    adapter: LoRA = field(default_factory=lambda: LoRA(dropout=0.0))
    """The new adapter, without dropout."""
    updates: Count = 100
    """Updates, each with new answers."""
    batch_size: Count = 64
    """Answers of an update."""
    samples: Count = 1
    """Answers drawn to each prompt of an update; divides batch_size, 2 for leave_one_out."""
    epochs: Count = 4
    """Passes over the answers of an update."""
    minibatches: Count = 1
    """Optimizer steps of a pass, at most batch_size."""
    max_tokens: Annotated[int, Field(ge=2)] = 53
    """Most tokens of an answer."""
    max_length: Count = 512
    """Most tokens of a prompt; longer ones are dropped."""
    temperature: Positive = 0.7
    """Of the answers that are drawn and of their log-probabilities."""
    missing_end: float = -1.0
    """Score of an answer that was cut off at max_tokens."""
    clip: Positive = 0.2
    """The ratio to the old policy counts from 1 - clip to 1 + clip."""
    lr: Positive = 3e-6
    """Learning rate of the first update."""
    optimizer: Optimizer = "adamw"
    """adamw_8bit_paged: moments in 8 bits, on CUDA in memory that can leave the GPU."""
    schedule: Schedule = "linear"
    """How the learning rate falls to 0; constant: not at all."""
    max_grad_norm: Positive = 1.0
    """Largest norm of the gradient; a longer one is scaled down."""
    tokens_per_batch: Count = 2048
    """Most tokens of a micro-batch: less memory if lower, with no effect on the gradient."""
    recompute: Literal["auto", "never", "always"] = "auto"
    """Recompute activations in the backward pass; auto: if memory would not do for them."""
    slots: Count = 32
    """Answers drawn at once: less memory if lower."""
    checkpoint_every: Count = 5
    """Updates between checkpoints; no effect on the result."""
    rollouts: Literal["here", "engine"] = "here"
    """Who draws the answers: this process, or the recipe's `engine`, which gets the adapters anew
    for every update."""
    ratio_cap: Positive | None = None
    """With `rollouts: engine`, a token's advantage is multiplied by its probability here over the
    engine's, at most this (truncated importance sampling: Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training"); null: not at all."""
    launch: TrainLaunch | None = None
    """Where its processes run; default: where the recipe's `launch` says."""

    def __post_init__(self) -> None:
        if self.minibatches > self.batch_size:
            raise ValueError("minibatches must be at most batch_size; change the value")
        if self.batch_size % self.samples:
            raise ValueError("samples must divide batch_size; change one of the two")
        if self.ratio_cap is not None and self.rollouts == "here":
            raise ValueError("ratio_cap has no effect on answers drawn here; set rollouts: engine")
        # a ratio of the new policy to the old one would be noise
        if self.adapter.dropout:
            raise ValueError(
                "adapter.dropout has no effect, since answers are read without dropout, as they"
                " were drawn; set it to 0"
            )
