"""The loop of PPO and DR-PO: draw answers, score them, improve; an update is a function of (weights, optimiser, seed, its number)."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.chat.branches import branches
from bezoar.chat.types import AnyRow, Dropped
from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.io import content_hash
from bezoar.judge.goodness import Goodness
from bezoar.model.paths import refuse_broken
from bezoar.model.score_head import ScoreHead
from bezoar.model.stack import Stack
from bezoar.model.tree import Tree
from bezoar.synth.sample import reward_answers
from bezoar.train import checkpoint
from bezoar.train.advantage import advantages, policy_losses, token_rewards, value_losses, whiten
from bezoar.train.checkpoint import Progress
from bezoar.train.machine import fresh_peak
from bezoar.train.optim import factor, optimizer, scale_rates
from bezoar.train.order import epoch_order
from bezoar.train.ppo import PPO
from bezoar.train.result import write_result
from bezoar.train.rollout import Policy, Prompt, Reading, Rollout, draw_prefix, micro_batches, read, roll_out, score
from bezoar.train.train import Place
from bezoar.watch import Watch


def train(settings: PPO, rows: Sequence[AnyRow], where: Place, *, watch: Watch, seed: int) -> dict[str, Any]:
    """Carry out the stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(watch.stage)
    fresh_peak()
    if where.reward is None:
        raise RecipeError(f"stage {watch.stage}: reward names no model; name a stage that trains bradley_terry or regression.")
    judge = Stack(*where.reward)
    if judge.score_head is None:
        raise RecipeError(f"stage {watch.stage}: reward: {settings.reward} has no score head; name a stage that trains bradley_terry or regression.")
    stack = Stack(where.spec, where.adapters)
    prompts, dropped = read_prompts(settings, rows, where, stack)
    if not prompts:
        raise DataError(f"stage {watch.stage}: none of its {len(rows)} rows can be answered; look at failures.jsonl or raise max_length.")
    if len(prompts) < settings.batch_size:
        watch.say(f"  {watch.stage}: an update has {len(prompts)} answers, for there are no more prompts than that")
    named = stack.grow(settings.adapter, seed=seed)
    head = ScoreHead(("value",), stack.net.config.hidden_size).to(stack.device)
    for parameter in head.parameters():
        parameter.data.zero_()
    stack.net.eval()
    if settings.normalise != "none":
        settings = replace(settings, goodness=normalised(settings, rows, where, judge), normalise="none")
    loop = Loop(settings, where, watch, seed, Policy(stack, head, settings.temperature), judge, prompts, named)
    started = time.process_time()
    loop.run()
    return _finish(loop, dropped, cpu_s=time.process_time() - started)


def read_prompts(settings: PPO, rows: Sequence[AnyRow], where: Place, stack: Stack) -> tuple[list[Prompt], list[Dropped]]:
    """What is answered; DataError for a row without an answer where resets need one. Long prompts are dropped as "too long"."""
    kept: list[Prompt] = []
    dropped: list[Dropped] = []
    where.renderer.check(stack.tokenizer)
    for row in rows:
        tokens = where.renderer.prompt(row.prompt, stack.tokenizer)
        reference: list[int] = []
        if settings.reset:
            if not row.answer.strip():
                raise DataError(f"row {row.id}: it has no answer of its own to reset to; remove the row or set reset to 0.")
            reference = branches(row.prompt, [row.answer], where.renderer, stack.tokenizer)[1][0]
        if len(tokens) > settings.max_length or len(tokens) + settings.max_tokens > stack.net.config.max_position_embeddings:
            dropped.append(Dropped(row.id, "too long", f"{len(tokens)} tokens, max_length is {settings.max_length}"))
        else:
            kept.append(Prompt(row.id, row.prompt, tokens, reference))
    return kept, dropped


def normalised(settings: PPO, rows: Sequence[AnyRow], where: Place, judge: Stack) -> Goodness:
    """The goodness by which the rows' own answers have mean 0, and with `std` standard deviation 1."""
    answered = [row for row in rows if row.answer]
    found = reward_answers(judge, where.renderer, [row.prompt for row in answered], [[row.answer] for row in answered])
    assert judge.score_head is not None
    known = [values for [values] in found if not math.isnan(values[0])]
    if len(known) < 2:
        raise DataError(f"{settings.rows}: normalise needs rows with answers of their own that fit the reward model; use others or set it to none.")
    return settings.goodness.centred(judge.score_head.outputs, known, scale=settings.normalise == "std")


@dataclass
class Loop:
    """One stage under way."""

    settings: PPO
    where: Place
    watch: Watch
    seed: int
    policy: Policy
    judge: Stack
    prompts: list[Prompt]
    named: dict[str, nn.Parameter]
    progress: Progress = field(default_factory=Progress)
    last: dict[str, float] = field(default_factory=dict)  # what the last update logged

    def __post_init__(self) -> None:
        self.named = {**self.named, **{f"value_head.{name}": p for name, p in self.policy.value_head.named_parameters()}}

    def run(self) -> None:
        """Every update that is not done yet."""
        settings = self.settings
        chosen = optimizer(settings.optimizer, self.named.items(), lr=settings.lr, weight_decay=0.0, head_lr=settings.head_lr)
        folder = self.where.folder(content_hash(
            {**asdict(settings), "checkpoint_every": 0}, [asdict(p) for p in self.prompts], self.policy.stack.identity, self.judge.identity,
            self.seed, torch.get_num_threads(),
        ))  # fmt: skip
        found = checkpoint.load(folder, chosen)
        if found:
            self.progress, weights, _ = found
            for name, parameter in self.named.items():
                parameter.data.copy_(weights[name])
        self.watch.rewind(self.progress.step)
        with self.watch.progress("updates", settings.updates) as advance:
            advance(self.progress.step)
            while self.progress.step < settings.updates:
                scale = factor(settings.schedule, self.progress.step, num_steps=settings.updates, warmup=0)
                scale_rates(chosen, scale)
                said = self._update(chosen)
                if self.progress.step % settings.checkpoint_every == 0 and self.progress.step < settings.updates:
                    checkpoint.save(folder, self.progress, weights=dict(self.named), best={}, optimizer=chosen)
                advance(1, said)

    def batch(self, update: int) -> list[Prompt]:
        """The prompts of an update (0-based): the next ones of an order that is new for every pass over all of them."""
        size, found = min(self.settings.batch_size, len(self.prompts)), list[Prompt]()
        for position in range(update * size, (update + 1) * size):
            epoch, place = divmod(position, len(self.prompts))
            found.append(self.prompts[epoch_order(len(self.prompts), epoch, self.seed)[place]])
        return found

    def _update(self, chosen: torch.optim.Optimizer) -> str:
        settings, progress, started = self.settings, self.progress, time.monotonic()
        rollouts = self._rollouts()
        scores = score(rollouts, self.policy, self.judge, self.where.renderer, goodness=settings.goodness, missing_end=settings.missing_end)
        if not all(map(math.isfinite, scores)):
            bad = next(r.prompt.id for r, s in zip(rollouts, scores, strict=True) if not math.isfinite(s))
            raise TrainingError(f"update {progress.step}: the reward of the answer to row {bad} is not finite; look at the reward model.")
        reading = read(self.policy, rollouts, micro_batches(rollouts, settings.tokens_per_batch))
        told = torch.tensor(scores, device=reading.mask.device)
        rewards = whiten(token_rewards(reading.logprobs, reading.reference, told, reading.lengths, kl=settings.kl), reading.mask, shift_mean=False)
        gained = advantages(rewards, reading.values, reading.mask, gamma=settings.gamma, lam=settings.lam)
        losses = self._improve(chosen, rollouts, reading, whiten(gained, reading.mask), gained + reading.values)
        log_ratio = ((reading.logprobs - reading.reference) * reading.mask).sum(1)
        seen, spent = float(told.mean()), time.monotonic() - started
        progress.step += 1
        progress.first_loss = losses["loss"] if progress.first_loss is None else progress.first_loss
        progress.last_loss = losses["loss"]
        progress.tokens += sum(r.tree.num_fed for r in rollouts)
        progress.trained_tokens += int(reading.free.sum())
        progress.seconds += spent
        self.last = {
            "reward": seen, "kl": float(log_ratio.mean()), "entropy": reading.entropy, "answer_tokens": float(reading.lengths.float().mean()),
            "ended": sum(r.ended for r in rollouts) / len(rollouts), "forced": sum(r.forced for r in rollouts) / int(reading.lengths.sum()),
        }  # fmt: skip
        self.watch.log(
            step=progress.step, **losses, **self.last, seconds=round(spent, 3), lr=chosen.param_groups[0]["lr"],
            tokens=sum(r.tree.num_fed for r in rollouts), trained_tokens=int(reading.free.sum()),
        )  # fmt: skip
        return f"reward {seen:.3f}"

    def _rollouts(self) -> list[Rollout]:
        settings, update = self.settings, self.progress.step
        prompts = self.batch(update)
        prefixes = [draw_prefix(p, share=settings.reset, max_tokens=settings.max_tokens, seed=self.seed, update=update) for p in prompts]
        end = self.where.renderer.end(self.policy.stack.tokenizer)
        return roll_out(self.policy, prompts, prefixes, end, max_tokens=settings.max_tokens, seed=int(content_hash(self.seed, update), 16))

    def _improve(
        self, chosen: torch.optim.Optimizer, rollouts: list[Rollout], reading: Reading, advantage: Tensor, returns: Tensor
    ) -> dict[str, float]:
        """The optimiser steps of an update; means of their losses."""
        settings, totals = self.settings, dict[str, float]()
        num_steps = settings.epochs * settings.minibatches
        for epoch in range(settings.epochs):
            order = list(range(len(rollouts)))
            if settings.minibatches > 1:
                random.Random(content_hash("minibatches", self.seed, self.progress.step, epoch)).shuffle(order)
            for number in range(settings.minibatches):
                part = sorted(order[number :: settings.minibatches])
                for name, value in self._gradient(rollouts, part, reading, advantage, returns).items():
                    totals[name] = totals.get(name, 0.0) + value / num_steps
                norm = float(nn.utils.clip_grad_norm_(self.named.values(), settings.max_grad_norm))
                if not math.isfinite(norm):
                    raise TrainingError(f"update {self.progress.step}: the gradient is not finite; lower lr.")
                chosen.step()
                chosen.zero_grad(set_to_none=True)
                totals["grad_norm"] = totals.get("grad_norm", 0.0) + norm / num_steps
        return totals

    def _gradient(
        self, rollouts: list[Rollout], part: list[int], reading: Reading, advantage: Tensor, returns: Tensor
    ) -> dict[str, float]:
        """Add the gradient of one minibatch, cut into micro-batches without an effect on it; returns its losses."""
        settings = self.settings
        num_free, num_all = float(reading.free[part].sum()), float(reading.mask[part].sum())
        totals = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0}
        for group in micro_batches([rollouts[i] for i in part], settings.tokens_per_batch):
            rows = [part[i] for i in group]
            trees: list[Tree] = [rollouts[i].tree for i in rows]
            inside = reading.mask[rows].bool()
            flat = [matrix[rows][inside] for matrix in (reading.logprobs, advantage, reading.values, returns, reading.free)]
            old, gained, old_values, goal, free = flat
            values, states, _ = self.policy.read(trees)
            losses, clipped = policy_losses(values, old, gained, clip=settings.clip)
            by_policy = (losses * free).sum() / max(1.0, num_free)
            by_value = value_losses(states, old_values, goal, clip=settings.value_clip).sum() / num_all
            (by_policy + settings.value_weight * by_value).backward()  # type: ignore[no-untyped-call]
            totals["policy_loss"] += by_policy.item()
            totals["value_loss"] += by_value.item()
            totals["clipped"] += float((clipped * free).sum()) / max(1.0, num_free)
        return {"loss": totals["policy_loss"] + settings.value_weight * totals["value_loss"], **totals}


def _finish(loop: Loop, dropped: list[Dropped], *, cpu_s: float) -> dict[str, Any]:
    rows = len(loop.prompts)
    return write_result(
        loop.where.out_dir, loop.policy.stack, loop.progress, rows=rows, dropped=dropped, named=loop.named, cpu_s=cpu_s,
        more={"rows_trained": rows, **loop.last},
    )  # fmt: skip
