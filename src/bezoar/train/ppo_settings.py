"""The recipe keys of PPO, and of DR-PO, whose answers restart from references. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bezoar.model.spec import LoRA, RewardWeights
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.train.settings import Optimizer, Schedule, require_positive


@dataclass(frozen=True)
class PPOSettings:
    """The recipe keys of the stage `ppo`."""

    model: ModelRef
    """The model to train: its base and the adapters below the new one."""
    reward: RewardRef
    """The reward model: a stage that trains bradley_terry or regression."""
    rows: RowsRef
    """The stage whose prompts are answered."""
    reset: float = 0.0
    """Share of answers that begin with a part of the row's own (DR-PO), from 0 (PPO) to 1."""
    goodness: RewardWeights = field(default_factory=RewardWeights)
    """One score from the outputs of the reward model."""
    normalise: Literal["none", "mean", "std"] = "none"
    """mean moves the mean score of the rows' own answers to 0; std also divides by their spread."""
    adapter: LoRA = field(default_factory=lambda: LoRA(dropout=0.0))
    """The new adapter, without dropout."""
    updates: int = 100
    """Updates, each with new answers, at least 1."""
    batch_size: int = 64
    """Answers of an update, at least 1."""
    epochs: int = 4
    """Passes over the answers of an update, at least 1."""
    minibatches: int = 1
    """Optimizer steps of a pass, from 1 to batch_size."""
    max_tokens: int = 53
    """Most tokens of an answer, at least 2."""
    max_length: int = 512
    """Most tokens of a prompt; longer ones are dropped."""
    temperature: float = 0.7
    """Of the answers that are drawn and of their log-probabilities, above 0."""
    missing_end: float = -1.0
    """Score of an answer that was cut off at max_tokens."""
    kl: float = 0.05
    """Weight of the penalty on the log-ratio to the reference."""
    clip: float = 0.2
    """The ratio to the old policy counts from 1 - clip to 1 + clip, above 0."""
    value_clip: float = 0.2
    """How far a value may move from its old one in an update, above 0."""
    value_weight: float = 0.1
    """Weight of the value loss."""
    gamma: float = 1.0
    """Discount of later rewards, from 0 to 1."""
    lam: float = 0.95
    """Lambda of the generalised advantage estimate, from 0 to 1."""
    lr: float = 3e-6
    """Learning rate of the first update, above 0."""
    head_lr: float | None = None
    """Learning rate of the value head; default: lr."""
    optimizer: Optimizer = "adamw"
    """adamw_8bit_paged: moments in 8 bits, on CUDA in memory that can leave the GPU."""
    schedule: Schedule = "linear"
    """How the learning rate falls to 0; constant: not at all."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; a longer one is scaled down."""
    tokens_per_batch: int = 2048
    """Most tokens of a micro-batch: less memory if lower, with no effect on the gradient."""
    recompute: Literal["auto", "never", "always"] = "auto"
    """Recompute activations in the backward pass; auto: if memory would not do for them."""
    slots: int = 32
    """Answers drawn at once, at least 1: less memory if lower."""
    checkpoint_every: int = 5
    """Updates between checkpoints, at least 1; no effect on the result."""
    kind: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
        counts = "updates", "batch_size", "epochs", "minibatches", "max_length"
        require_positive(self, *counts, "temperature", "lr", "clip", "value_clip", "max_grad_norm")
        require_positive(self, "tokens_per_batch", "slots", "checkpoint_every")
        if self.max_tokens < 2:
            raise ValueError("max_tokens must be at least 2; change the value")
        if not 0 <= self.reset <= 1 or not 0 <= self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ValueError("reset, gamma and lam are shares from 0 to 1; change the value")
        if self.minibatches > self.batch_size:
            raise ValueError("minibatches must be at most batch_size; change the value")
        if self.normalise != "none" and (self.goodness.mean, self.goodness.std) != (0.0, 1.0):
            raise ValueError(
                "goodness.mean and goodness.std have no effect where normalise finds them; remove"
                " them or set it to none"
            )
        if self.adapter.dropout:
            raise ValueError(
                "adapter.dropout has no effect, since PPO trains without dropout; set it to 0"
            )
