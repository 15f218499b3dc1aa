"""The score of a reward model, beside those of programs."""

from dataclasses import dataclass, field
from typing import Literal

from bezoar.bounds import Positive
from bezoar.model.spec import RewardWeights
from bezoar.references import RewardRef


@dataclass(frozen=True)
class ModelReward:
    """The score of a reward model, as it is: `goodness.mean` and `goodness.std` bring it to the
    scale of the others.

    Example: {kind: model, reward: judge, weight: 0.5}
    """

    reward: RewardRef
    """The reward model: a stage that trains bradley_terry or regression."""
    goodness: RewardWeights = field(default_factory=RewardWeights)
    """One score from its outputs."""
    weight: Positive = field(default=1.0, kw_only=True)
    """Factor of this reward in the sum of all."""
    kind: Literal["model"] = "model"
