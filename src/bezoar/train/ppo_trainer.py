"""PPO and DR-PO: draw answers, score them, improve the policy and its values on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from bezoar.chat.types import AnyRow
from bezoar.errors import DataError
from bezoar.model.completions import reward_completions
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.goodness import SearchedWeights
from bezoar.model.layer import recompute
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.advantage import policy_losses, value_losses
from bezoar.train.critic import open_policy
from bezoar.train.hardware import fresh_peak
from bezoar.train.policy_trainer import PolicyTrainer, open_reward
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.ranks import Ranks
from bezoar.train.rollout import Prompt, Rollout, RolloutScores, draw_prefix, gains, open_prompts
from bezoar.train.settings import StageInputs


def train(
    settings: PPOSettings, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int
) -> Stats:
    """Run the stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage)
    fresh_peak()
    reward_model = open_reward(inputs, "reward", settings.reward, progress.stage)
    assert inputs.reward is not None
    stack = Stack(inputs.spec, inputs.adapters)
    prompts, dropped = open_prompts(settings, rows, inputs, stack, progress)
    parameters = stack.add_adapter(settings.adapter, seed=seed)
    # without dropout, answers are read as they were drawn
    stack.net.eval()
    if settings.normalise != "none":
        goodness = normalised(settings, rows, inputs, reward_model)
        mean, std = Ranks.here().of_first([goodness.mean, goodness.std])
        goodness = replace(goodness, mean=mean, std=std)
        settings = replace(settings, goodness=goodness, normalise="none")
    longest = max(len(prompt.tokens) for prompt in prompts) + settings.max_tokens
    models, stage = (stack, inputs.reward, reward_model), progress.stage
    policy, more = open_policy(settings, *models, seed=seed, longest=longest, stage=stage)
    parameters |= more
    args = settings, inputs, progress, seed, parameters, policy, reward_model, prompts
    trainer = PPOTrainer(*args)
    trainer.run()
    return trainer.result(dropped, {})


def normalised(
    settings: PPOSettings, rows: Iterable[AnyRow], inputs: StageInputs, reward_model: Stack
) -> SearchedWeights:
    """Weights that give the rows' own answers mean score 0 and, with `std`, deviation 1."""
    answered = [row for row in rows if row.answer]
    prompts, answers = [row.prompt for row in answered], [[row.answer] for row in answered]
    outputs = reward_completions(reward_model, inputs.template, prompts, answers)
    known = [values for [values] in outputs if not math.isnan(values[0])]
    if len(known) < 2:
        raise DataError(
            f"{settings.rows}: normalise needs rows with answers of their own that fit the reward"
            " model; use others or set it to none."
        )
    assert reward_model.score_head is not None
    scale = settings.normalise == "std"
    return settings.goodness.centred(reward_model.score_head.outputs, known, scale=scale)


@dataclass
class PPOTrainer(PolicyTrainer):
    """PPO on prompts."""

    settings: PPOSettings

    def recompute(self) -> bool:
        """Those of the critic too."""
        begun, critic = super().recompute(), self.policy.critic
        if begun and critic is not None:
            recompute(critic.net)
        return begun

    def prefix(self, prompt: Prompt) -> list[int]:
        share, max_tokens = self.settings.reset, self.settings.max_tokens
        update = self.state.step
        return draw_prefix(
            prompt, share=share, max_tokens=max_tokens, seed=self.seed, update=update
        )

    def experience(self) -> tuple[list[Rollout], list[float], dict[str, float]]:
        rollouts = self.draw(self.state.step)
        scores = self.model_scores(rollouts, self.settings.goodness)
        num_tokens = sum(len(rollout.tokens) for rollout in rollouts)
        forced = sum(rollout.forced for rollout in rollouts) / num_tokens
        return rollouts, scores, {"forced": forced}

    def targets(self, old: RolloutScores, scores: Tensor) -> Sequence[Tensor]:
        return gains(self.settings, old, scores)

    def gradient(
        self,
        rollouts: list[Rollout],
        rows: list[int],
        old: RolloutScores,
        targets: Sequence[Tensor],
    ) -> dict[str, float]:
        # divisors of the whole minibatch: drawn tokens for the policy, all of the answer for the
        # value, which also learns on the prefix that DR-PO gave
        settings, (advantage, returns) = self.settings, targets
        num_free = max(1.0, float(old.free[rows].sum()))
        num_tokens = float(old.mask[rows].sum())

        def terms(
            logprobs: Tensor, values: Tensor, *numbers: Tensor
        ) -> tuple[Tensor, dict[str, float]]:
            old_logprobs, gain, old_values, goals, free = numbers
            losses, clipped = policy_losses(logprobs, old_logprobs, gain, clip=settings.clip)
            errors = value_losses(values, old_values, goals, clip=settings.value_clip)
            policy_loss = (losses * free).sum() / num_free
            value_loss = errors.sum() / num_tokens
            return policy_loss + settings.value_weight * value_loss, {
                "policy_loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "clipped": float((clipped * free).sum()) / num_free,
            }

        matrices = old.logprobs, advantage, old.values, returns, old.free
        totals = self.accumulate(rollouts, rows, matrices, old.mask, terms)
        loss = totals["policy_loss"] + settings.value_weight * totals["value_loss"]
        return {"loss": loss, **totals}
