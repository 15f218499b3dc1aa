"""The recipe keys of PPO, and of DR-PO, whose answers restart from references. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from bezoar.bounds import Count, NotNegative, Positive, Share
from bezoar.model.spec import LoRA, RewardWeights
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.train.settings import Optimizer, Schedule


@dataclass(frozen=True)
class PPOSettings:
    """The recipe keys of the stage `ppo`."""

    model: ModelRef
    """The model to train: its base and the adapters below the new one."""
    reward: RewardRef
    """The reward model: a stage that trains bradley_terry or regression."""
    rows: RowsRef
    """The stage whose prompts are answered."""
    reset: Share = 0.0
    """Share of answers that begin with a part of the row's own (DR-PO), from 0 (PPO) to 1."""
    goodness: RewardWeights = field(default_factory=RewardWeights)
    """One score from the outputs of the reward model."""
    normalise: Literal["none", "mean", "std"] = "none"
    """mean moves the mean score of the rows' own answers to 0; std also divides by their spread."""
    adapter: LoRA = field(default_factory=lambda: LoRA(dropout=0.0))
    """The new adapter, without dropout."""
    updates: Count = 100
    """Updates, each with new answers."""
    batch_size: Count = 64
    """Answers of an update."""
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
    kl: NotNegative = 0.05
    """Weight of the penalty on the log-ratio to the reference."""
    clip: Positive = 0.2
    """The ratio to the old policy counts from 1 - clip to 1 + clip."""
    value_clip: Positive = 0.2
    """How far a value may move from its old one in an update."""
    value_weight: NotNegative = 0.1
    """Weight of the value loss."""
    gamma: Share = 1.0
    """Discount of later rewards."""
    lam: Share = 0.95
    """Lambda of the generalised advantage estimate."""
    lr: Positive = 3e-6
    """Learning rate of the first update."""
    head_lr: Positive | None = None
    """Learning rate of the value head; default: lr."""
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
    kind: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
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
