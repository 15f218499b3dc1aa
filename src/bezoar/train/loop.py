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
from bezoar.model.fast_paths import refuse_broken, usable
from bezoar.model.layer import recompute
from bezoar.model.resolve import tokenizer_identity
from bezoar.model.stack import Stack
from bezoar.model.tensors import kept_tensors, save_tensors
from bezoar.progress import Progress
from bezoar.stage import Rows
from bezoar.train import checkpoint
from bezoar.train.checkpoint import TrainerState
from bezoar.train.hardware import fresh_peak, peak_flops, step_flops
from bezoar.train.label_check import Example, check_labels
from bezoar.train.memory import available, llama_like, predict_memory
from bezoar.train.optim import lr_multiplier, optimizer, scale_rates
from bezoar.train.result import write_result
from bezoar.train.sampler import epoch_order
from bezoar.train.settings import StageInputs, TrainSettings
from bezoar.train.step import Totals, TrainState, evaluate, gradient, reference
from bezoar.train.tokenized_cache import identity, num_cut, num_input_tokens, prepare

LENGTHS_KEPT = 10_000
"""Rows whose lengths are written down for the report."""


def train(
    settings: TrainSettings, rows: Rows, where: StageInputs, *, progress: Progress, seed: int
) -> dict[str, Any]:
    """Carry out a training stage; a stage that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage)
    fresh_peak()
    stack = Stack(where.spec, where.adapters)
    prover = partial(
        check_labels,
        objective=settings.objective,
        template=where.template,
        tokenizer=stack.tokenizer,
        max_length=settings.max_length,
        too_long=settings.too_long,
    )
    made_with = content_hash(
        repr(settings.objective),
        repr(where.template),
        tokenizer_identity(where.spec),
        settings.max_length,
        settings.too_long,
    )
    items, dropped = prepare(rows, prover, key=made_with, progress=progress)
    if not items:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be trained; look at"
            " failures.jsonl or raise max_length."
        )
    if "baseline" in settings.objective.needs and all(
        item.group.prompt == items[0].group.prompt for item in items
    ):
        raise DataError(
            f"stage {progress.stage}: {settings.objective.kind} reads each prompt with answers to"
            " another, and there is one prompt; add rows."
        )
    torch.manual_seed(seed)
    outputs = settings.objective.outputs if "scores" in settings.objective.needs else ()  # type: ignore[attr-defined]
    named = stack.add_adapter(settings.adapter, seed=seed, outputs=outputs)
    loop = Loop(
        settings,
        where,
        progress,
        seed,
        TrainState(stack, settings.objective, items, neftune=settings.neftune),
        named,
    )
    started = time.process_time()
    loop.run()
    loop.cpu_s = time.process_time() - started
    return _finish(loop, items, dropped)


@dataclass
class Loop:
    """One training stage under way."""

    settings: TrainSettings
    where: StageInputs
    progress: Progress
    seed: int
    work: TrainState
    named: dict[str, nn.Parameter]
    state: TrainerState = field(default_factory=TrainerState)
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
        """The rows of a step (0-based): each epoch is a new order of all rows, given by seed and
        epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.settings.batch_size
        return sorted(
            self.trained[i]
            for i in epoch_order(len(self.trained), epoch, self.seed)[
                start : start + self.settings.batch_size
            ]
        )

    def run(self) -> None:
        """Every step that is not done yet."""
        settings, stack = self.settings, self.work.stack
        chosen = optimizer(
            settings.optimizer,
            self.named.items(),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            head_lr=settings.head_lr,
        )
        folder = self.folder
        found = checkpoint.load(folder, chosen)
        if found:
            self.state, weights, self.best = found
            stack.set_trained(weights)
        self.progress.rewind(self.state.step)
        self._save_memory()
        if "reference" in settings.objective.needs:
            self._reference()
        with self.progress.bar("steps", self.num_steps) as advance:
            advance(self.state.step)
            if not self.state.step and self.held_out:
                self._evaluate()
            while self.state.step < self.num_steps and not self._stopped():
                self._step(chosen)
                if self._evaluation_due():
                    self._evaluate()
                if (
                    self.state.step % settings.checkpoint_every == 0
                    and self.state.step < self.num_steps
                ):
                    checkpoint.save(
                        folder,
                        self.state,
                        weights=stack.trained_state(),
                        best=self.best,
                        optimizer=chosen,
                    )
                advance(1, f"loss {self.state.last_loss:.3f}")
        if self.best:
            stack.set_trained(self.best)

    def _step(self, chosen: torch.optim.Optimizer) -> None:
        settings, state, started = self.settings, self.state, time.monotonic()
        scale_rates(
            chosen,
            lr_multiplier(
                settings.schedule, state.step, num_steps=self.num_steps, warmup=self.warmup
            ),
        )
        rows = self.rows_of(state.step)
        totals = self._gradient(rows)
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), settings.clip))
        if not math.isfinite(norm):
            names = ", ".join(self.work.items[i].id for i in rows)
            raise TrainingError(
                f"step {state.step}: the gradient is not finite on the rows {names}; look at them,"
                " or lower lr."
            )
        chosen.step()
        chosen.zero_grad(set_to_none=True)
        spent = time.monotonic() - started
        state.step += 1
        state.first_loss = totals.loss if state.first_loss is None else state.first_loss
        state.last_loss = totals.loss
        state.tokens += totals.tokens
        state.trained_tokens += totals.trained
        state.seconds += spent
        self.progress.log(
            step=state.step,
            epoch=round(state.step / self.steps_per_epoch, 4),
            loss=totals.loss,
            **totals.metrics,
            grad_norm=norm,
            lr=chosen.param_groups[0]["lr"],
            tokens_per_s=round(totals.tokens / spent, 1),
            tokens=totals.tokens,
            trained_tokens=totals.trained,
            padding=0.0,
            **self._mfu(totals, spent),
        )

    def _mfu(self, totals: Totals, spent_s: float) -> dict[str, float]:
        """The share of the device's arithmetic that a step used, where the device is known."""
        peak, config = peak_flops(), self.work.stack.net.config.to_dict()
        if peak is None or not llama_like(config):
            return {}
        flops = step_flops(
            config, tokens=totals.tokens, trained=totals.trained, full=self.settings.adapter is None
        )
        return {"mfu": round(flops / spent_s / peak, 4)}

    def _gradient(self, rows: list[int]) -> Totals:
        """The gradient of a step; out of memory, the step is done anew in micro-batches of half the
        size."""
        budget = self.settings.tokens_per_batch
        while True:
            batches = self.work.micro_batches(rows, budget)
            try:
                return self._gradient_of(batches)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if all(len(micro_batch) == 1 for micro_batch in batches):
                    longest = max(rows, key=lambda i: self.work.items[i].group.num_input_tokens)
                    raise TrainingError(
                        f"step {self.state.step}: no memory for the row"
                        f" {self.work.items[longest].id} alone; lower max_length."
                    ) from error
            for parameter in self.named.values():
                parameter.grad = None
            self.state.splits += 1
            budget = max(1, budget // 2)

    def _gradient_of(self, batches: list[list[int]]) -> Totals:
        return gradient(self.work, batches, seed=self.seed, step=self.state.step)

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.settings.eval_every or self.steps_per_epoch
        return bool(self.held_out) and (step % every == 0 or step == self.num_steps)

    def _evaluate(self) -> None:
        started, state = time.monotonic(), self.state
        totals = evaluate(self.work, self.held_out, self.settings.tokens_per_batch)
        state.seconds += time.monotonic() - started
        state.evaluations.append((state.step, totals.loss))
        self.progress.log(
            step=state.step,
            validation_loss=totals.loss,
            **{f"validation_{k}": v for k, v in totals.metrics.items()},
        )
        if state.step and (state.best_loss is None or totals.loss < state.best_loss):
            state.best_loss, state.best_step = totals.loss, state.step
            self.best = {
                name: tensor.detach().clone()
                for name, tensor in self.work.stack.trained_state().items()
            }
        if state.step and self.settings.keep == "all":
            self.work.stack.save_trained(self.folder / "kept" / f"step-{state.step}")

    def _stopped(self) -> bool:
        since = sum(step > self.state.best_step for step, _ in self.state.evaluations)
        return 0 < self.settings.patience <= since

    def _reference(self) -> None:
        """Log-probabilities by the stack below, once: read from the work folder, or computed and
        written there."""
        file = self.folder / "references.safetensors"
        found = kept_tensors(file)
        if found is None:
            batches = [
                micro_batch
                for step in range(min(self.steps_per_epoch, self.num_steps))
                for micro_batch in self.work.micro_batches(
                    self.rows_of(step), self.settings.tokens_per_batch
                )
            ]
            batches += self.work.micro_batches(self.held_out, self.settings.tokens_per_batch)
            with self.progress.bar("reference", len(batches)) as advance:
                values: dict[int, Tensor] = {}
                for micro_batch in batches:
                    values.update(reference(self.work, [micro_batch]))
                    advance()
            # three tensors, not one a row: a file of a million would be slow to open
            sizes = torch.tensor([len(value) for value in values.values()])
            found = {
                "rows": torch.tensor(list(values)),
                "sizes": sizes,
                "values": torch.cat(list(values.values())),
            }
            save_tensors(file, found)
        parts = torch.split(found["values"], found["sizes"].tolist())
        self.work.references = dict(zip(found["rows"].tolist(), parts, strict=True))

    def _save_memory(self) -> None:
        """Recompute activations where the recipe says so, or where the predicted peak is more than
        what is free."""
        sizes = num_input_tokens(self.work.items)
        tokens = max(min(self.settings.tokens_per_batch, sum(sizes)), max(sizes))
        stack = self.work.stack
        found = predict_memory(
            stack.net.config.to_dict(),
            stack.spec,
            self.settings.adapter,
            tokens=tokens,
            on_gpu=stack.device.type == "cuda",
        )
        short = found is not None and found.activations > available()[0]
        if usable("recomputed activations") and (
            self.settings.recompute == "always" or (self.settings.recompute == "auto" and short)
        ):
            self.progress.say(
                f"  {self.progress.stage}: activations are computed anew to save memory"
            )
            recompute(stack.net)

    @cached_property
    def folder(self) -> Path:
        """Where this work is kept between kills."""
        settings = {
            k: v
            for k, v in asdict(self.settings).items()
            if k not in ("checkpoint_every", "recompute")
        }
        key = content_hash(
            settings,
            identity(self.work.items),
            self.work.stack.identity,
            self.seed,
            torch.get_num_threads(),
        )
        return self.where.folder(key)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "can't allocate memory" in str(error)


def _finish(loop: Loop, items: Sequence[Example], dropped: list[Dropped]) -> dict[str, Any]:
    """Write the result and its statistics."""
    out, state = loop.where.out_dir, loop.state
    more = {
        "cut": num_cut(items),
        "rows_trained": len(loop.trained),
        "rows_validation": len(loop.held_out),
        "best_validation_loss": state.best_loss,
        "best_step": state.best_step,
        "memory_splits": state.splits,
        "token_lengths": [item.group.longest for item in items[:LENGTHS_KEPT]],
    }
    if loop.settings.keep == "all":
        shutil.copytree(loop.folder / "kept", out / "checkpoints")
    return write_result(
        out,
        loop.work.stack,
        state,
        rows=len(items),
        dropped=dropped,
        named=loop.named,
        cpu_s=loop.cpu_s,
        more=more,
    )
