"""Training: stages by kind."""

from bezoar.train.stages import PPO, Train

TRAININGS: dict[str, type] = {"train": Train, "ppo": PPO}
