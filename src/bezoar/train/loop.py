"""The training loop: proof, split, reference, steps, evaluations, checkpoints, result."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.chat.types import Dropped
from bezoar.errors import DataError, TrainingError
from bezoar.io import content_hash
from bezoar.model.find import tokenizer_identity
from bezoar.model.layer import recompute
from bezoar.model.paths import refuse_broken, usable
from bezoar.model.stack import Stack
from bezoar.model.tensors import kept_tensors, save_tensors
from bezoar.train import checkpoint
from bezoar.train.checkpoint import Progress
from bezoar.train.machine import fresh_peak, peak_flops, step_flops
from bezoar.train.memory import available, llama_like, predict_memory
from bezoar.train.optim import factor, optimizer, scale_rates
from bezoar.train.order import epoch_order
from bezoar.train.prepare import Rows, identity, num_cut, num_fed, prepare
from bezoar.train.proof import Item, prove
from bezoar.train.result import write_result
from bezoar.train.step import Totals, Work, evaluate, gradient, reference
from bezoar.train.train import Place, Train
from bezoar.watch import Watch

LENGTHS_KEPT = 10_000
"""Rows whose lengths are written down for the report."""


def train(settings: Train, rows: Rows, where: Place, *, watch: Watch, seed: int) -> dict[str, Any]:
    """Carry out a training stage; a stage that was killed goes on from its last checkpoint."""
    refuse_broken(watch.stage)
    fresh_peak()
    stack = Stack(where.spec, where.adapters)
    prover = partial(
        prove, objective=settings.objective, renderer=where.renderer, tokenizer=stack.tokenizer,
        max_length=settings.max_length, too_long=settings.too_long,
    )  # fmt: skip
    made_with = content_hash(repr(settings.objective), repr(where.renderer), tokenizer_identity(where.spec), settings.max_length, settings.too_long)
    items, dropped = prepare(rows, prover, key=made_with, watch=watch)
    if not items:
        raise DataError(f"stage {watch.stage}: none of its {len(rows)} rows can be trained; look at failures.jsonl or raise max_length.")
    if "baseline" in settings.objective.needs and all(item.tree.trunk == items[0].tree.trunk for item in items):
        raise DataError(f"stage {watch.stage}: {settings.objective.kind} reads each prompt with answers to another, and there is one prompt; add rows.")
    torch.manual_seed(seed)
    outputs = settings.objective.outputs if "scores" in settings.objective.needs else ()  # type: ignore[attr-defined]
    named = stack.grow(settings.adapter, seed=seed, outputs=outputs)
    loop = Loop(settings, where, watch, seed, Work(stack, settings.objective, items, neftune=settings.neftune), named)
    started = time.process_time()
    loop.run()
    loop.cpu_s = time.process_time() - started
    return _finish(loop, items, dropped)


@dataclass
class Loop:
    """One training stage under way."""

    settings: Train
    where: Place
    watch: Watch
    seed: int
    work: Work
    named: dict[str, nn.Parameter]
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    cpu_s: float = 0.0

    def __post_init__(self) -> None:
        """Split the rows and count the steps."""
        order = list(range(len(self.work.items)))
        random.Random(f"validation {self.seed}").shuffle(order)
        held = round(self.settings.validation * len(order)) if len(order) > 1 else 0
        self.held_out, self.trained = sorted(order[:held]), sorted(order[held:])
        self.steps_per_epoch = math.ceil(len(self.trained) / self.settings.batch_size)
        steps = math.ceil(self.settings.epochs * self.steps_per_epoch)
        self.num_steps = min(steps, self.settings.max_steps or steps)
        self.warmup = math.ceil(self.settings.warmup_ratio * self.num_steps)

    def rows_of(self, step: int) -> list[int]:
        """The rows of a step (0-based): each epoch is a new order of all rows, given by seed and epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.settings.batch_size
        return sorted(self.trained[i] for i in epoch_order(len(self.trained), epoch, self.seed)[start : start + self.settings.batch_size])

    def run(self) -> None:
        """Every step that is not done yet."""
        settings, stack = self.settings, self.work.stack
        chosen = optimizer(settings.optimizer, self.named.items(), lr=settings.lr, weight_decay=settings.weight_decay, head_lr=settings.head_lr)
        folder = self.folder
        found = checkpoint.load(folder, chosen)
        if found:
            self.progress, weights, self.best = found
            stack.set_trained(weights)
        self.watch.rewind(self.progress.step)
        self._save_memory()
        if "reference" in settings.objective.needs:
            self._reference()
        with self.watch.progress("steps", self.num_steps) as advance:
            advance(self.progress.step)
            if not self.progress.step and self.held_out:
                self._evaluate()
            while self.progress.step < self.num_steps and not self._stopped():
                self._step(chosen)
                if self._evaluation_due():
                    self._evaluate()
                if self.progress.step % settings.checkpoint_every == 0 and self.progress.step < self.num_steps:
                    checkpoint.save(folder, self.progress, weights=stack.trained_state(), best=self.best, optimizer=chosen)
                advance(1, f"loss {self.progress.last_loss:.3f}")
        if self.best:
            stack.set_trained(self.best)

    def _step(self, chosen: torch.optim.Optimizer) -> None:
        settings, progress, started = self.settings, self.progress, time.monotonic()
        scale_rates(chosen, factor(settings.schedule, progress.step, num_steps=self.num_steps, warmup=self.warmup))
        rows = self.rows_of(progress.step)
        totals = self._gradient(rows)
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), settings.clip))
        if not math.isfinite(norm):
            names = ", ".join(self.work.items[i].id for i in rows)
            raise TrainingError(f"step {progress.step}: the gradient is not finite on the rows {names}; look at them, or lower lr.")
        chosen.step()
        chosen.zero_grad(set_to_none=True)
        spent = time.monotonic() - started
        progress.step += 1
        progress.first_loss = totals.loss if progress.first_loss is None else progress.first_loss
        progress.last_loss = totals.loss
        progress.tokens += totals.tokens
        progress.trained_tokens += totals.trained
        progress.seconds += spent
        self.watch.log(
            step=progress.step, epoch=round(progress.step / self.steps_per_epoch, 4), loss=totals.loss, **totals.metrics,
            grad_norm=norm, lr=chosen.param_groups[0]["lr"], tokens_per_s=round(totals.tokens / spent, 1), tokens=totals.tokens,
            trained_tokens=totals.trained, padding=0.0, **self._mfu(totals, spent),
        )  # fmt: skip

    def _mfu(self, totals: Totals, spent_s: float) -> dict[str, float]:
        """The share of the device's arithmetic that a step used, where the device is known."""
        peak, config = peak_flops(), self.work.stack.net.config.to_dict()
        if peak is None or not llama_like(config):
            return {}
        flops = step_flops(config, tokens=totals.tokens, trained=totals.trained, full=self.settings.adapter is None)
        return {"mfu": round(flops / spent_s / peak, 4)}

    def _gradient(self, rows: list[int]) -> Totals:
        """The gradient of a step; out of memory, the step is done anew in micro-batches of half the size."""
        budget = self.settings.tokens_per_batch
        while True:
            groups = self.work.micro_batches(rows, budget)
            try:
                return self._gradient_of(groups)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if all(len(group) == 1 for group in groups):
                    longest = max(rows, key=lambda i: self.work.items[i].tree.num_fed)
                    raise TrainingError(
                        f"step {self.progress.step}: no memory for the row {self.work.items[longest].id} alone; lower max_length."
                    ) from error
            for parameter in self.named.values():
                parameter.grad = None
            self.progress.splits += 1
            budget = max(1, budget // 2)

    def _gradient_of(self, groups: list[list[int]]) -> Totals:
        return gradient(self.work, groups, seed=self.seed, step=self.progress.step)

    def _evaluation_due(self) -> bool:
        step, every = self.progress.step, self.settings.eval_every or self.steps_per_epoch
        return bool(self.held_out) and (step % every == 0 or step == self.num_steps)

    def _evaluate(self) -> None:
        started, progress = time.monotonic(), self.progress
        totals = evaluate(self.work, self.held_out, self.settings.tokens_per_batch)
        progress.seconds += time.monotonic() - started
        progress.evaluations.append((progress.step, totals.loss))
        self.watch.log(step=progress.step, validation_loss=totals.loss, **{f"validation_{k}": v for k, v in totals.metrics.items()})
        if progress.step and (progress.best_loss is None or totals.loss < progress.best_loss):
            progress.best_loss, progress.best_step = totals.loss, progress.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.work.stack.trained_state().items()}
        if progress.step and self.settings.keep == "all":
            self.work.stack.save_trained(self.folder / "kept" / f"step-{progress.step}")

    def _stopped(self) -> bool:
        since = sum(step > self.progress.best_step for step, _ in self.progress.evaluations)
        return 0 < self.settings.patience <= since

    def _reference(self) -> None:
        """Log-probabilities by the stack below, once: read from the work folder, or computed and written there."""
        file = self.folder / "references.safetensors"
        found = kept_tensors(file)
        if found is None:
            groups = [
                group for step in range(min(self.steps_per_epoch, self.num_steps))
                for group in self.work.micro_batches(self.rows_of(step), self.settings.tokens_per_batch)
            ]  # fmt: skip
            groups += self.work.micro_batches(self.held_out, self.settings.tokens_per_batch)
            with self.watch.progress("reference", len(groups)) as advance:
                values: dict[int, Tensor] = {}
                for group in groups:
                    values.update(reference(self.work, [group]))
                    advance()
            # three tensors, not one a row: a file of a million would be slow to open
            sizes = torch.tensor([len(value) for value in values.values()])
            found = {"rows": torch.tensor(list(values)), "sizes": sizes, "values": torch.cat(list(values.values()))}
            save_tensors(file, found)
        parts = torch.split(found["values"], found["sizes"].tolist())
        self.work.references = dict(zip(found["rows"].tolist(), parts, strict=True))

    def _save_memory(self) -> None:
        """Recompute activations where the recipe says so, or where the predicted peak is more than what is free."""
        sizes = num_fed(self.work.items)
        tokens = max(min(self.settings.tokens_per_batch, sum(sizes)), max(sizes))
        stack = self.work.stack
        found = predict_memory(stack.net.config.to_dict(), stack.spec, self.settings.adapter, tokens=tokens, on_gpu=stack.device.type == "cuda")
        short = found is not None and found.activations > available()[0]
        if usable("recomputed activations") and (self.settings.recompute == "always" or (self.settings.recompute == "auto" and short)):
            self.watch.say(f"  {self.watch.stage}: activations are computed anew to save memory")
            recompute(stack.net)

    @cached_property
    def folder(self) -> Path:
        """Where this work is kept between kills."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in ("checkpoint_every", "recompute")}
        key = content_hash(settings, identity(self.work.items), self.work.stack.identity, self.seed, torch.get_num_threads())
        return self.where.folder(key)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _finish(loop: Loop, items: Sequence[Item], dropped: list[Dropped]) -> dict[str, Any]:
    """Write the result and its statistics."""
    out, progress = loop.where.out_dir, loop.progress
    more = {
        "cut": num_cut(items), "rows_trained": len(loop.trained), "rows_validation": len(loop.held_out),
        "best_validation_loss": progress.best_loss, "best_step": progress.best_step, "memory_splits": progress.splits,
        "token_lengths": [item.tree.longest for item in items[:LENGTHS_KEPT]],
    }  # fmt: skip
    if loop.settings.keep == "all":
        shutil.copytree(loop.folder / "kept", out / "checkpoints")
    return write_result(out, loop.work.stack, progress, rows=len(items), dropped=dropped, named=loop.named, cpu_s=loop.cpu_s, more=more)
