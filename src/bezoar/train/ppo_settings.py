"""The recipe keys of PPO, and of DR-PO, whose answers restart from references. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from bezoar.bounds import NotNegative, Positive, Share
from bezoar.model.goodness import SearchedWeights
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.train.policy_settings import PolicySettings


@dataclass(frozen=True)
class PPOSettings(PolicySettings):
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
    kl: NotNegative = 0.05
    """Weight of the penalty on the log-ratio to the reference."""
    value_clip: Positive = 0.2
    """How far a value may move from its old one in an update."""
    value_weight: NotNegative = 0.1
    """Weight of the value loss."""
    advantage: Literal["gae", "leave_one_out"] = "gae"
    """leave_one_out is REINFORCE: an answer's return less the mean of the others to its prompt."""
    gamma: Share = 1.0
    """Discount of later rewards."""
    lam: Share = 0.95
    """Lambda of the generalised advantage estimate."""
    head_lr: Positive | None = None
    """Learning rate of the value head; default: lr."""
    kind: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalise != "none" and (self.goodness.mean, self.goodness.std) != (0.0, 1.0):
            raise ValueError(
                "goodness.mean and goodness.std have no effect where normalise finds them; remove"
                " them or set it to none"
            )
        if self.critic == "reward" and self.head_lr is not None:
            raise ValueError(
                "head_lr has no effect with critic: reward, whose head is frozen; remove it"
            )
        if self.advantage == "leave_one_out":
            self._check_leave_one_out()

    def _check_leave_one_out(self) -> None:
        if self.samples < 2:
            raise ValueError("advantage: leave_one_out needs samples: 2 or more; add it")
        # what belongs to values, which REINFORCE has none of
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("critic", "head_lr", "value_clip", "value_weight", "gamma", "lam"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect with advantage: leave_one_out; remove it")
