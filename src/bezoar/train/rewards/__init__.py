"""Rewards of drawn answers by kind."""

from bezoar.train.rewards.model import ModelReward
from bezoar.train.rewards.number import Number

REWARDS: dict[str, type] = {"number": Number, "model": ModelReward}
