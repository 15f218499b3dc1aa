"""PPO and DR-PO: draw answers, score them, improve the policy on them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.io import content_hash
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.layer import recompute
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.rng import rng_for
from bezoar.stage import Rows, Stats
from bezoar.train.advantage import policy_losses, value_losses
from bezoar.train.critic import open_policy
from bezoar.train.hardware import fresh_peak
from bezoar.train.optim import epoch_order
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.rollout import (
    Policy,
    Prompt,
    Rollout,
    RolloutScores,
    draw_prefix,
    gains,
    micro_batches,
    normalised,
    read,
    read_prompts,
    roll_out,
    score,
)
from bezoar.train.settings import StageInputs
from bezoar.train.trainer import Trainer

T = TypeVar("T")


def train(
    settings: PPOSettings, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int
) -> Stats:
    """Run the stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage)
    fresh_peak()
    hint = "name a stage that trains bradley_terry or regression"
    if inputs.reward is None:
        raise RecipeError(f"stage {progress.stage}: reward names no model; {hint}.")
    reward_model = Stack(*inputs.reward)
    if reward_model.score_head is None:
        raise RecipeError(
            f"stage {progress.stage}: reward: {settings.reward} has no score head; {hint}."
        )
    stack = Stack(inputs.spec, inputs.adapters)
    prompts, dropped = read_prompts(settings, rows, inputs, stack)
    if not prompts:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be answered; look at"
            " failures.jsonl or raise max_length."
        )
    if len(prompts) < settings.batch_size:
        progress.say(f"  {progress.stage}: an update has only {len(prompts)} prompts; add rows")
    parameters = stack.add_adapter(settings.adapter, seed=seed)
    # without dropout, answers are read as they were drawn
    stack.net.eval()
    if settings.normalise != "none":
        goodness = normalised(settings, rows, inputs, reward_model)
        settings = replace(settings, goodness=goodness, normalise="none")
    longest = max(len(prompt.tokens) for prompt in prompts) + settings.max_tokens
    models, stage = (stack, inputs.reward, reward_model), progress.stage
    policy, more = open_policy(settings, *models, seed=seed, longest=longest, stage=stage)
    parameters |= more
    args = settings, inputs, progress, seed, parameters, policy, reward_model, prompts
    trainer = PPOTrainer(*args)
    trainer.run()
    splits = {"memory_splits": trainer.state.splits}
    facts = {"rows_trained": len(prompts), **splits, **trainer.last_metrics}
    return trainer.write_result(stack, len(prompts), dropped, facts)


@dataclass
class PPOTrainer(Trainer):
    """PPO on prompts. A step is an update: answers, and the optimizer steps on them."""

    settings: PPOSettings
    policy: Policy
    reward_model: Stack
    prompts: list[Prompt]
    last_metrics: dict[str, float] = field(default_factory=dict)
    unit: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        self.num_steps = self.settings.updates

    def key(self) -> str:
        """What the checkpoints belong to; recomputation and their number change no weight."""
        settings = asdict(self.settings)
        del settings["checkpoint_every"], settings["recompute"]
        models = self.policy.stack.identity, self.reward_model.identity
        prompts = [asdict(prompt) for prompt in self.prompts]
        return content_hash(settings, prompts, *models, self.seed, torch.get_num_threads())

    @property
    def stack(self) -> Stack:
        return self.policy.stack

    def prepare(self) -> None:
        """Memory alone: every update makes its own data."""
        longest = max(len(prompt.tokens) for prompt in self.prompts) + self.settings.max_tokens
        self.save_memory(max(self.budget, longest), self.policy.critic)

    def recompute(self) -> bool:
        """Those of the critic too."""
        begun, critic = super().recompute(), self.policy.critic
        if begun and critic is not None:
            recompute(critic.net)
        return begun

    def batch(self, update: int) -> list[Prompt]:
        """The prompts of an update (0-based), each `samples` times: the next ones; each pass has
        its own order of all."""
        count, samples = len(self.prompts), self.settings.samples
        size, batch = min(self.settings.batch_size // samples, count), list[Prompt]()
        for position in range(update * size, (update + 1) * size):
            epoch, index = divmod(position, count)
            batch += [self.prompts[epoch_order(count, epoch, self.seed)[index]]] * samples
        return batch

    def step(self) -> str:
        """One update: answers, their rewards and advantages, and the optimizer steps."""
        settings, started = self.settings, time.monotonic()
        # 1) answers by the current policy, and their scores
        rollouts = self._rollouts()
        scores = self._scores(rollouts)
        # 2) read the old policy, its reference and the values before any weight changes, in the
        # micro-batches of training: with one minibatch the first ratio is 1 to the bit
        old = self._in_micro_batches(rollouts, partial(read, self.policy, rollouts))
        scores_tensor = torch.tensor(scores, device=old.mask.device)  # [N]
        # 3) what each token was worth
        losses = self._improve(rollouts, old, *gains(settings, old, scores_tensor))
        # 4) count before logging: a log line has the number of updates that are done
        seconds, reward = time.monotonic() - started, float(scores_tensor.mean())
        log_ratio = ((old.logprobs - old.reference) * old.mask).sum(1)  # [N]
        num_tokens = sum(r.group.num_input_tokens for r in rollouts)
        counts = {"tokens": num_tokens, "trained_tokens": int(old.free.sum())}
        self.count(loss=losses["loss"], **counts, seconds=seconds)
        self.last_metrics = {
            "reward": reward,
            "kl": float(log_ratio.mean()),
            "entropy": old.entropy,
            "answer_tokens": float(old.lengths.float().mean()),
            "ended": sum(r.ended for r in rollouts) / len(rollouts),
            "forced": sum(r.forced for r in rollouts) / int(old.lengths.sum()),
        }
        self.progress.log(
            step=self.state.step,
            **losses,
            **self.last_metrics,
            seconds=round(seconds, 3),
            lr=self.optimizer.param_groups[0]["lr"],
            **counts,
        )
        return f"reward {reward:.3f}"

    def _rollouts(self) -> list[Rollout]:
        """The answers to the prompts of the update."""
        settings, update, seed = self.settings, self.state.step, self.seed
        share, max_tokens, prompts = settings.reset, settings.max_tokens, self.batch(update)
        prefixes = [
            draw_prefix(p, share=share, max_tokens=max_tokens, seed=seed, update=update)
            for p in prompts
        ]
        end = self.inputs.template.end(self.policy.stack.tokenizer)
        draw = partial(
            roll_out,
            self.policy,
            prompts,
            prefixes,
            end,
            max_tokens=max_tokens,
            seed=int(content_hash(seed, update), 16),
        )

        def shrink() -> str:
            slots = self.state.slots or settings.slots
            self.state.slots = slots // 2
            return "" if slots > 1 else "for one answer; lower max_tokens or max_length"

        return self.again_with_less(lambda: draw(slots=self.state.slots or settings.slots), shrink)

    def _scores(self, rollouts: list[Rollout]) -> list[float]:
        """The reward model's score of every answer."""
        settings, template = self.settings, self.inputs.template
        scores = self._in_micro_batches(
            rollouts,
            lambda _: score(
                rollouts,
                self.policy,
                self.reward_model,
                template,
                goodness=settings.goodness,
                missing_end=settings.missing_end,
                max_tokens=self.state.budget,
            ),
        )
        for rollout, value in zip(rollouts, scores, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"update {self.state.step}: the reward of the answer to row"
                    f" {rollout.prompt.id} is not finite; look at the reward model."
                )
        return scores

    def _improve(
        self, rollouts: list[Rollout], old: RolloutScores, advantage: Tensor, returns: Tensor
    ) -> dict[str, float]:
        """The optimizer steps of an update on advantages and returns [N, T]; their mean losses."""
        settings, totals = self.settings, dict[str, float]()
        num_steps = settings.epochs * settings.minibatches
        for epoch in range(settings.epochs):
            order = list(range(len(rollouts)))
            if settings.minibatches > 1:
                rng_for("minibatches", self.seed, self.state.step, epoch).shuffle(order)
            # sorted, as in supervised training: the cut depends on the set of answers only
            for number in range(settings.minibatches):
                rows = sorted(order[number :: settings.minibatches])
                losses = self._gradient(rollouts, rows, old, advantage, returns)
                ids = [rollouts[i].prompt.id for i in rows]
                losses["grad_norm"] = self.apply_gradient(settings.max_grad_norm, ids)
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value / num_steps
        return totals

    def _gradient(
        self,
        rollouts: list[Rollout],
        rows: list[int],
        old: RolloutScores,
        advantage: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """Add the gradient of the minibatch `rows`; returns its losses.

        Tokens are counted over the whole minibatch: its micro-batches have no effect on the result.
        """
        # 1) divisors of the whole minibatch: drawn tokens for the policy, all of the answer for the
        #    value, which also learns on the prefix that DR-PO gave
        settings, minibatch = self.settings, [rollouts[i] for i in rows]
        num_free = max(1.0, float(old.free[rows].sum()))
        num_tokens = float(old.mask[rows].sum())
        matrices = old.logprobs, advantage, old.values, returns, old.free  # [N, T] each

        def compute(batches: list[list[int]]) -> dict[str, float]:
            totals = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0}
            for batch in batches:
                # 2) numbers from before the update, without padding, in the order of the tokens
                micro_rows = [rows[i] for i in batch]
                is_answer = old.mask[micro_rows].bool()
                old_logprobs, gains, old_values, targets, free = (
                    matrix[micro_rows][is_answer] for matrix in matrices
                )  # [A] each
                # 3) the policy of now; backward at once, so that one micro-batch's graph is held
                logprobs, values, _ = self.policy.read([rollouts[i].group for i in micro_rows])
                losses, clipped = policy_losses(logprobs, old_logprobs, gains, clip=settings.clip)
                errors = value_losses(values, old_values, targets, clip=settings.value_clip)
                policy_loss = (losses * free).sum() / num_free
                value_loss = errors.sum() / num_tokens
                torch.autograd.backward(policy_loss + settings.value_weight * value_loss)
                totals["policy_loss"] += policy_loss.item()
                totals["value_loss"] += value_loss.item()
                totals["clipped"] += float((clipped * free).sum()) / num_free
            loss = totals["policy_loss"] + settings.value_weight * totals["value_loss"]
            return {"loss": loss, **totals}

        return self._in_micro_batches(minibatch, compute)

    def _in_micro_batches(
        self, rollouts: list[Rollout], compute: Callable[[list[list[int]]], T]
    ) -> T:
        """`compute` of rollouts; out of memory, again in smaller micro-batches."""
        sizes = {rollout.prompt.id: rollout.group.num_input_tokens for rollout in rollouts}
        return self.with_less_memory(lambda budget: micro_batches(rollouts, budget), compute, sizes)
