"""Training: stages by kind."""

from bezoar.train.grpo import GRPO
from bezoar.train.rloo import RLOO
from bezoar.train.stages import PPO, Train

TRAININGS: dict[str, type] = {"train": Train, "ppo": PPO, "grpo": GRPO, "rloo": RLOO}
Training = Train | PPO | GRPO | RLOO
"""Any stage that trains."""
