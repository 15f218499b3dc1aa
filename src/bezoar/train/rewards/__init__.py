"""Rewards of drawn answers by kind."""

from bezoar.train.rewards.instructions import Instructions
from bezoar.train.rewards.json_answer import JSONAnswer
from bezoar.train.rewards.model import ModelReward
from bezoar.train.rewards.number import Number
from bezoar.train.rewards.tool_call import ToolCallReward

REWARDS: dict[str, type] = {
    "tool_call": ToolCallReward,
    "json": JSONAnswer,
    "instructions": Instructions,
    "number": Number,
    "model": ModelReward,
}
