"""What GRPO and RLOO share: several answers to each prompt, whose rewards are compared with each
other in place of a critic. Imports no torch before a stage runs.

N answers, those to one prompt side by side, T tokens of the longest, A tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from bezoar.bounds import Count, Natural, NotNegative, Positive
from bezoar.chat.row_types import RowNeed, RowType
from bezoar.model.spec import ModelSpec
from bezoar.references import ModelRef, RowsRef
from bezoar.stage import StageContext
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.rewards import REWARDS
from bezoar.train.rewards.model import ModelReward
from bezoar.train.rewards.program import Program
from bezoar.train.stages import TrainingStage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    AnyReward = Program | ModelReward
else:
    AnyReward = Annotated[reduce(or_, REWARDS.values()), Field(discriminator="kind")]


@dataclass(frozen=True)
class GroupPolicy(PolicySettings, TrainingStage):
    """The keys of GRPO and RLOO."""

    model: ModelRef
    """The model to train: its base and the adapters below the new one."""
    rows: RowsRef
    """The stage whose prompts are answered."""
    rewards: tuple[AnyReward, ...]
    """What an answer is worth: the sum of these, each times its weight."""
    _: KW_ONLY
    samples: Count = 8
    """Answers drawn to each prompt of an update, at least 2; divides batch_size."""
    epochs: Count = 1
    """Passes over the answers of an update."""
    max_tokens: Annotated[int, Field(ge=2)] = 256
    """Most tokens of an answer."""
    temperature: Positive = 1.0
    """Of the answers that are drawn and of their log-probabilities."""
    missing_end: float = 0.0
    """Reward, as a whole, of an answer that was cut off at max_tokens."""
    kl: NotNegative = 0.04
    """Weight of the KL to the stack below."""
    dynamic_sampling: Natural = 0
    """Most further draws for prompts whose answers all have one reward (DAPO); 0: they stay."""
    lr: Positive = 1e-5
    """Learning rate of the first update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rewards:
            raise ValueError("rewards is empty; name one, such as {kind: number}")
        if self.samples < 2:
            raise ValueError("samples must be 2 or more: answers are compared with each other")
        # a stage is given one reward model, and holds it in memory beside the policy
        if len([r for r in self.rewards if isinstance(r, ModelReward)]) > 1:
            raise ValueError("rewards has two reward models, and one can be held; remove one")
        # metrics go by kind
        kinds = [reward.kind for reward in self.rewards]
        if len(kinds) > len(set(kinds)):
            raise ValueError("rewards has one kind twice; remove one")

    @property
    def programs(self) -> list[Program]:
        """The rewards that are programs."""
        return [reward for reward in self.rewards if isinstance(reward, Program)]

    @property
    def by_model(self) -> ModelReward | None:
        """The reward that is a model's, if there is one."""
        return next((r for r in self.rewards if isinstance(r, ModelReward)), None)

    def advantages(self, scores: Tensor, log_ratios: Tensor) -> Tensor:
        """What the answers are worth beside the others to their prompt, [N], from their rewards [N]
        and their log-ratios to the stack below [N]."""
        raise NotImplementedError

    def token_losses(
        self, logprobs: Tensor, old: Tensor, reference: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of each token [A], and whether it was clipped; `old` and `reference` are
        log-probabilities before the update and under the stack below."""
        raise NotImplementedError

    def weights(self, mask: Tensor, ended: Tensor) -> Tensor:
        """What the tokens [N, T] of an optimizer step count in its loss, from their mask and which
        answers ended [N]: one over the number of all."""
        return mask / mask.sum()

    def length_penalty(self, num_tokens: int) -> float:
        """What is taken from the reward of an answer of so many tokens."""
        return 0.0

    def takes(self) -> Mapping[str, RowNeed]:
        # what programs compare answers with stands in the row, whatever made it
        needs = frozenset().union(*(program.needs for program in self.programs))
        if not needs:
            return {}
        return {"rows": (RowType("chats", needs), RowType("comparisons", needs))}

    def reward_model(self, context: StageContext) -> tuple[ModelSpec, list[Path]] | None:
        return context.model(self.by_model.reward) if self.by_model else None
