"""The recipe keys of PPO, and of DR-PO, whose answers restart from references. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from pydantic import Field

from bezoar.bounds import Count, NotNegative, Positive, Share
from bezoar.model.goodness import SearchedWeights
from bezoar.model.spec import LoRA
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
    goodness: SearchedWeights = field(default_factory=SearchedWeights)
    """One score from the outputs of the reward model, whose weights may be searched."""
    normalise: Literal["none", "mean", "std"] = "none"
    """mean moves the mean score of the rows' own answers to 0; std also divides by their spread."""
    critic: Literal["head", "reward"] = "head"
    """head: the values are read off the policy's states; reward: by a copy of the reward model."""
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
    advantage: Literal["gae", "leave_one_out"] = "gae"
    """leave_one_out is REINFORCE: an answer's return less the mean of the others to its prompt."""
    samples: Count = 1
    """Answers drawn to each prompt of an update; divides batch_size, 2 for leave_one_out."""
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
        self._check_samples()
        if self.critic == "reward" and self.head_lr is not None:
            raise ValueError(
                "head_lr has no effect with critic: reward, whose head is frozen; remove it"
            )
        if self.adapter.dropout:
            raise ValueError(
                "adapter.dropout has no effect, since PPO trains without dropout; set it to 0"
            )

    def _check_samples(self) -> None:
        if self.batch_size % self.samples:
            raise ValueError("samples must divide batch_size; change one of the two")
        if self.advantage == "gae":
            return
        if self.samples < 2:
            raise ValueError("advantage: leave_one_out needs samples: 2 or more; add it")
        # what belongs to values, which REINFORCE has none of
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("critic", "head_lr", "value_clip", "value_weight", "gamma", "lam"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect with advantage: leave_one_out; remove it")
