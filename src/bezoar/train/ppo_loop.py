"""The loop of PPO and DR-PO: draw answers, score them, improve; an update is a function of
(weights, optimiser, seed, its number)."""

import math
import random
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.chat.templates import render_completions
from bezoar.chat.types import Dropped
from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.io import content_hash
from bezoar.model.completions import reward_completions
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.prompt_group import PromptGroup
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import RewardWeights
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.stage import Rows
from bezoar.train import checkpoint
from bezoar.train.advantage import advantages, policy_losses, token_rewards, value_losses, whiten
from bezoar.train.checkpoint import TrainerState
from bezoar.train.hardware import fresh_peak
from bezoar.train.optim import lr_multiplier, optimizer, scale_rates
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.result import write_result
from bezoar.train.rollout import (
    Policy,
    Prompt,
    Rollout,
    RolloutScores,
    draw_prefix,
    micro_batches,
    read,
    roll_out,
    score,
)
from bezoar.train.sampler import epoch_order
from bezoar.train.settings import StageInputs


def train(
    settings: PPOSettings, rows: Rows, where: StageInputs, *, progress: Progress, seed: int
) -> dict[str, Any]:
    """Carry out the stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage)
    fresh_peak()
    if where.reward is None:
        raise RecipeError(
            f"stage {progress.stage}: reward names no model; name a stage that trains bradley_terry"
            " or regression."
        )
    judge = Stack(*where.reward)
    if judge.score_head is None:
        raise RecipeError(
            f"stage {progress.stage}: reward: {settings.reward} has no score head; name a stage"
            " that trains bradley_terry or regression."
        )
    stack = Stack(where.spec, where.adapters)
    prompts, dropped = read_prompts(settings, rows, where, stack)
    if not prompts:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be answered; look at"
            " failures.jsonl or raise max_length."
        )
    if len(prompts) < settings.batch_size:
        progress.say(
            f"  {progress.stage}: an update has {len(prompts)} answers, for there are no more"
            " prompts than that"
        )
    named = stack.add_adapter(settings.adapter, seed=seed)
    head = ScoreHead(("value",), stack.net.config.hidden_size).to(stack.device)
    for parameter in head.parameters():
        parameter.data.zero_()
    stack.net.eval()
    if settings.normalise != "none":
        settings = replace(
            settings, goodness=normalised(settings, rows, where, judge), normalise="none"
        )
    loop = Loop(
        settings,
        where,
        progress,
        seed,
        Policy(stack, head, settings.temperature),
        judge,
        prompts,
        named,
    )
    started = time.process_time()
    loop.run()
    return _finish(loop, dropped, cpu_s=time.process_time() - started)


def read_prompts(
    settings: PPOSettings, rows: Rows, where: StageInputs, stack: Stack
) -> tuple[list[Prompt], list[Dropped]]:
    """What is answered; DataError for a row without an answer where resets need one. Long prompts
    are dropped as "too long"."""
    kept: list[Prompt] = []
    dropped: list[Dropped] = []
    where.template.check(stack.tokenizer)
    for row in rows:
        tokens = where.template.prompt(row.prompt, stack.tokenizer)
        reference: list[int] = []
        if settings.reset:
            if not row.answer.strip():
                raise DataError(
                    f"row {row.id}: it has no answer of its own to reset to; remove the row or set"
                    " reset to 0."
                )
            reference = render_completions(
                row.prompt, [row.answer], where.template, stack.tokenizer
            )[1][0]
        if (
            len(tokens) > settings.max_length
            or len(tokens) + settings.max_tokens > stack.net.config.max_position_embeddings
        ):
            dropped.append(
                Dropped(
                    row.id, "too long", f"{len(tokens)} tokens, max_length is {settings.max_length}"
                )
            )
        else:
            kept.append(Prompt(row.id, row.prompt, tokens, reference))
    return kept, dropped


def normalised(
    settings: PPOSettings, rows: Rows, where: StageInputs, judge: Stack
) -> RewardWeights:
    """The goodness by which the rows' own answers have mean 0, and with `std` standard deviation
    1."""
    answered = [row for row in rows if row.answer]
    found = reward_completions(
        judge, where.template, [row.prompt for row in answered], [[row.answer] for row in answered]
    )
    assert judge.score_head is not None
    known = [values for [values] in found if not math.isnan(values[0])]
    if len(known) < 2:
        raise DataError(
            f"{settings.rows}: normalise needs rows with answers of their own that fit the reward"
            " model; use others or set it to none."
        )
    return settings.goodness.centred(
        judge.score_head.outputs, known, scale=settings.normalise == "std"
    )


@dataclass
class Loop:
    """One stage under way."""

    settings: PPOSettings
    where: StageInputs
    progress: Progress
    seed: int
    policy: Policy
    judge: Stack
    prompts: list[Prompt]
    named: dict[str, nn.Parameter]
    state: TrainerState = field(default_factory=TrainerState)
    last: dict[str, float] = field(default_factory=dict)  # what the last update logged

    def __post_init__(self) -> None:
        self.named = {
            **self.named,
            **{f"value_head.{name}": p for name, p in self.policy.value_head.named_parameters()},
        }

    def run(self) -> None:
        """Every update that is not done yet."""
        settings = self.settings
        chosen = optimizer(
            settings.optimizer,
            self.named.items(),
            lr=settings.lr,
            weight_decay=0.0,
            head_lr=settings.head_lr,
        )
        folder = self.where.folder(
            content_hash(
                {**asdict(settings), "checkpoint_every": 0},
                [asdict(p) for p in self.prompts],
                self.policy.stack.identity,
                self.judge.identity,
                self.seed,
                torch.get_num_threads(),
            )
        )
        found = checkpoint.load(folder, chosen)
        if found:
            self.state, weights, _ = found
            for name, parameter in self.named.items():
                parameter.data.copy_(weights[name])
        self.progress.rewind(self.state.step)
        with self.progress.bar("updates", settings.updates) as advance:
            advance(self.state.step)
            while self.state.step < settings.updates:
                scale = lr_multiplier(
                    settings.schedule, self.state.step, num_steps=settings.updates, warmup=0
                )
                scale_rates(chosen, scale)
                said = self._update(chosen)
                if (
                    self.state.step % settings.checkpoint_every == 0
                    and self.state.step < settings.updates
                ):
                    checkpoint.save(
                        folder, self.state, weights=dict(self.named), best={}, optimizer=chosen
                    )
                advance(1, said)

    def batch(self, update: int) -> list[Prompt]:
        """The prompts of an update (0-based): the next ones of an order that is new for every pass
        over all of them."""
        size, found = min(self.settings.batch_size, len(self.prompts)), list[Prompt]()
        for position in range(update * size, (update + 1) * size):
            epoch, place = divmod(position, len(self.prompts))
            found.append(self.prompts[epoch_order(len(self.prompts), epoch, self.seed)[place]])
        return found

    def _update(self, chosen: torch.optim.Optimizer) -> str:
        settings, state, started = self.settings, self.state, time.monotonic()
        rollouts = self._rollouts()
        scores = score(
            rollouts,
            self.policy,
            self.judge,
            self.where.template,
            goodness=settings.goodness,
            missing_end=settings.missing_end,
        )
        if not all(map(math.isfinite, scores)):
            bad = next(
                r.prompt.id for r, s in zip(rollouts, scores, strict=True) if not math.isfinite(s)
            )
            raise TrainingError(
                f"update {state.step}: the reward of the answer to row {bad} is not finite; look at"
                " the reward model."
            )
        reading = read(self.policy, rollouts, micro_batches(rollouts, settings.tokens_per_batch))
        told = torch.tensor(scores, device=reading.mask.device)
        rewards = whiten(
            token_rewards(
                reading.logprobs, reading.reference, told, reading.lengths, kl=settings.kl
            ),
            reading.mask,
            shift_mean=False,
        )
        gained = advantages(
            rewards, reading.values, reading.mask, gamma=settings.gamma, lam=settings.lam
        )
        losses = self._improve(
            chosen, rollouts, reading, whiten(gained, reading.mask), gained + reading.values
        )
        log_ratio = ((reading.logprobs - reading.reference) * reading.mask).sum(1)
        seen, spent = float(told.mean()), time.monotonic() - started
        state.step += 1
        state.first_loss = losses["loss"] if state.first_loss is None else state.first_loss
        state.last_loss = losses["loss"]
        state.tokens += sum(r.group.num_input_tokens for r in rollouts)
        state.trained_tokens += int(reading.free.sum())
        state.seconds += spent
        self.last = {
            "reward": seen,
            "kl": float(log_ratio.mean()),
            "entropy": reading.entropy,
            "answer_tokens": float(reading.lengths.float().mean()),
            "ended": sum(r.ended for r in rollouts) / len(rollouts),
            "forced": sum(r.forced for r in rollouts) / int(reading.lengths.sum()),
        }
        self.progress.log(
            step=state.step,
            **losses,
            **self.last,
            seconds=round(spent, 3),
            lr=chosen.param_groups[0]["lr"],
            tokens=sum(r.group.num_input_tokens for r in rollouts),
            trained_tokens=int(reading.free.sum()),
        )
        return f"reward {seen:.3f}"

    def _rollouts(self) -> list[Rollout]:
        settings, update = self.settings, self.state.step
        prompts = self.batch(update)
        prefixes = [
            draw_prefix(
                p,
                share=settings.reset,
                max_tokens=settings.max_tokens,
                seed=self.seed,
                update=update,
            )
            for p in prompts
        ]
        end = self.where.template.end(self.policy.stack.tokenizer)
        return roll_out(
            self.policy,
            prompts,
            prefixes,
            end,
            max_tokens=settings.max_tokens,
            seed=int(content_hash(self.seed, update), 16),
        )

    def _improve(
        self,
        chosen: torch.optim.Optimizer,
        rollouts: list[Rollout],
        reading: RolloutScores,
        advantage: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """The optimiser steps of an update; means of their losses."""
        settings, totals = self.settings, dict[str, float]()
        num_steps = settings.epochs * settings.minibatches
        for epoch in range(settings.epochs):
            order = list(range(len(rollouts)))
            if settings.minibatches > 1:
                random.Random(
                    content_hash("minibatches", self.seed, self.state.step, epoch)
                ).shuffle(order)
            for number in range(settings.minibatches):
                part = sorted(order[number :: settings.minibatches])
                for name, value in self._gradient(
                    rollouts, part, reading, advantage, returns
                ).items():
                    totals[name] = totals.get(name, 0.0) + value / num_steps
                norm = float(nn.utils.clip_grad_norm_(self.named.values(), settings.max_grad_norm))
                if not math.isfinite(norm):
                    raise TrainingError(
                        f"update {self.state.step}: the gradient is not finite; lower lr."
                    )
                chosen.step()
                chosen.zero_grad(set_to_none=True)
                totals["grad_norm"] = totals.get("grad_norm", 0.0) + norm / num_steps
        return totals

    def _gradient(
        self,
        rollouts: list[Rollout],
        part: list[int],
        reading: RolloutScores,
        advantage: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """Add the gradient of one minibatch, cut into micro-batches without an effect on it;
        returns its losses."""
        settings = self.settings
        num_free, num_all = float(reading.free[part].sum()), float(reading.mask[part].sum())
        totals = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0}
        for micro_batch in micro_batches([rollouts[i] for i in part], settings.tokens_per_batch):
            rows = [part[i] for i in micro_batch]
            groups: list[PromptGroup] = [rollouts[i].group for i in rows]
            inside = reading.mask[rows].bool()
            batch = [
                matrix[rows][inside]
                for matrix in (reading.logprobs, advantage, reading.values, returns, reading.free)
            ]
            old, gained, old_values, goal, free = batch
            values, states, _ = self.policy.read(groups)
            losses, clipped = policy_losses(values, old, gained, clip=settings.clip)
            by_policy = (losses * free).sum() / max(1.0, num_free)
            by_value = (
                value_losses(states, old_values, goal, clip=settings.value_clip).sum() / num_all
            )
            (by_policy + settings.value_weight * by_value).backward()  # type: ignore[no-untyped-call]
            totals["policy_loss"] += by_policy.item()
            totals["value_loss"] += by_value.item()
            totals["clipped"] += float((clipped * free).sum()) / max(1.0, num_free)
        return {
            "loss": totals["policy_loss"] + settings.value_weight * totals["value_loss"],
            **totals,
        }


def _finish(loop: Loop, dropped: list[Dropped], *, cpu_s: float) -> dict[str, Any]:
    rows = len(loop.prompts)
    return write_result(
        loop.where.out_dir,
        loop.policy.stack,
        loop.state,
        rows=rows,
        dropped=dropped,
        named=loop.named,
        cpu_s=cpu_s,
        more={"rows_trained": rows, **loop.last},
    )
