"""Training with an objective: reference, steps, evaluations on held-out rows, the best weights."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from bezoar.chat.types import Dropped
from bezoar.io import content_hash, write_jsonl
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.load import types_in
from bezoar.model.resolve import resolve_model
from bezoar.model.stack import Stack
from bezoar.model.tensors import kept_tensors, save_tensors
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.examples import checked_examples
from bezoar.train.extrapolate import check_head, extrapolate
from bezoar.train.hardware import fresh_peak, mfu, work
from bezoar.train.optim import epoch_order
from bezoar.train.ranks import Ranks
from bezoar.train.settings import StageInputs, TrainSettings, in_parts, no_step_better, step_counts
from bezoar.train.step import (
    TrainState,
    add_gradient,
    add_losses,
    drift,
    largest,
    of_all_ranks,
    packing,
    padded,
    reference,
)
from bezoar.train.tokenized_cache import identity, num_cut, num_input_tokens
from bezoar.train.totals import Totals
from bezoar.train.trainer import Trainer

T = TypeVar("T")
LENGTHS_KEPT = 10_000
"""Rows whose lengths are written down for the report."""


def train(
    settings: TrainSettings, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int
) -> Stats:
    """Run a training stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage, all_weights=settings.adapter is None)
    fresh_peak()
    parts = in_parts(settings, inputs.spec, Ranks.here().size)
    if parts and len(types := types_in(resolve_model(inputs.spec.path))) > 1:
        fault = f"files of several types ({', '.join(sorted(types))}): each rank loads all of them"
        progress.say(f"  {progress.stage}: {fault} before it keeps its part")
    stack = Stack(inputs.spec, inputs.adapters, mapped=parts)
    examples, dropped = checked_examples(settings, rows, inputs, stack, progress)
    # before the adapter and the head are drawn: the same seed gives the same first weights
    torch.manual_seed(seed)
    outputs: tuple[str, ...] = getattr(settings.objective, "outputs", ())
    if settings.extrapolate != 1:
        check_head(stack, outputs, progress.stage)
    parameters = stack.add_adapter(settings.adapter, seed=seed, outputs=outputs)
    if parts:
        parameters = stack.shard()
    train_state = TrainState(stack, settings.objective, examples, neftune=settings.neftune)
    trainer = SupervisedTrainer(settings, inputs, progress, seed, parameters, train_state)
    trainer.run()
    return trainer.finish(dropped)


@dataclass
class SupervisedTrainer(Trainer):
    """Training with an objective on rows, some of them held out."""

    settings: TrainSettings
    train_state: TrainState

    def __post_init__(self) -> None:
        """Split the rows and count the steps."""
        settings, order = self.settings, list(range(len(self.train_state.examples)))
        # by the seed only: every evaluation, also after a kill, is on the same rows
        random.Random(f"validation {self.seed}").shuffle(order)
        counts = step_counts(settings, len(order))
        num = counts.held_out
        self.held_out, self.trained = sorted(order[:num]), sorted(order[num:])
        self.steps_per_epoch, self.num_steps = counts.per_epoch, counts.total
        self.warmup = counts.warmup

    @property
    def stack(self) -> Stack:
        return self.train_state.stack

    def key(self) -> str:
        """What the checkpoints belong to."""
        settings = self.settings_of_weights()
        examples, stack = identity(self.train_state.examples), self.train_state.stack.identity
        return content_hash(settings, examples, stack, self.seed)

    def rows_of(self, step: int) -> list[int]:
        """The rows of a step (0-based); each epoch has its own order of all rows."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, size = self.trained, self.settings.batch_size
        if self.settings.shuffle:
            order = [order[i] for i in epoch_order(len(order), epoch, self.seed)]
        # sorted, so that equal sets of rows are cut into equal micro-batches
        return sorted(order[position * size : (position + 1) * size])

    def prepare(self) -> None:
        """The reference is read with the memory settings of training, so those come first."""
        # the largest micro-batch: a full budget, or a row that is longer than it
        sizes = num_input_tokens(self.train_state.examples)
        self.save_memory(max(min(self.budget, sum(sizes)), max(sizes)))
        if "reference" in self.settings.objective.needs:
            self._load_reference()
        if not self.state.step and self.held_out:
            self._evaluate()

    def is_finished(self) -> bool:
        """Whether `patience` evaluations in a row were no better than the best."""
        since = sum(step > self.state.best_step for step, _ in self.state.evaluations)
        return 0 < self.settings.patience <= since

    def step(self) -> str:
        """One optimizer step and, if one is due, an evaluation."""
        started, rows = time.monotonic(), self.rows_of(self.state.step)
        # 1) the gradient of the whole step, then its norm: clipping needs all micro-batches
        totals = self.gradient(rows)
        row_ids = [self.train_state.examples[i].id for i in rows]
        norm = self.apply_gradient(self.settings.clip, row_ids)
        # 2) count before logging: a log line has the number of steps that are done
        seconds = time.monotonic() - started
        counts = {"tokens": totals.tokens, "trained_tokens": totals.trained}
        self.count(loss=totals.loss, **counts, seconds=seconds)
        self.progress.log(
            step=self.state.step,
            epoch=round(self.state.step / self.steps_per_epoch, 4),
            loss=totals.loss,
            **totals.metrics,
            grad_norm=norm,
            lr=self.optimizer.param_groups[0]["lr"],
            tokens_per_s=round(totals.tokens / seconds, 1),
            **counts,
            padding=0.0,
            **mfu(seconds=seconds, **self._work(totals.tokens, totals.trained)),
        )
        # 3) evaluate inside the step, so that a checkpoint never lies between the two
        every = self.settings.eval_every or self.steps_per_epoch
        if self.held_out and (self.state.step % every == 0 or self.state.step == self.num_steps):
            self._evaluate()
        return f"loss {totals.loss:.3f}"

    def in_micro_batches(self, rows: Sequence[int], compute: Callable[[list[list[int]]], T]) -> T:
        """`compute` of rows; out of memory, again in smaller micro-batches."""
        examples = [self.train_state.examples[i] for i in rows]
        return self.with_less_memory(
            lambda budget: self.train_state.micro_batches(rows, budget),
            compute,
            {example.id: example.group.num_input_tokens for example in examples},
        )

    def gradient(self, rows: Sequence[int]) -> Totals:
        """Add this rank's part of a step's gradient; what is returned is of all ranks."""
        own = self.deal(rows)
        self.stack.net.train()
        # the baseline is of the whole step too, and is read before any of its gradient is formed
        self._set_baseline(rows, partial(largest, self.train_state))
        return self.in_micro_batches(own, self.gradient_of).over(self.ranks)

    def gradient_of(self, batches: list[list[int]]) -> Totals:
        """This rank's part of the gradient of the step under way, cut into these micro-batches."""
        rows, state = self.rows_of(self.state.step), self.train_state
        common: Any = {"seed": self.seed, "step": self.state.step, "rank": self.ranks.rank}
        return add_gradient(state, batches, **self.of_all(rows, batches), **common)

    def of_all(self, rows: Sequence[int], batches: list[list[int]]) -> dict[str, Any]:
        """What the part of this rank is to know of all that read `rows`."""
        passes, units = max(1, self._passes(len(batches))), self.train_state.units(rows)
        return {"units": units, "spare": rows[:1], "passes": passes}

    def _passes(self, own: int) -> int:
        """Those for so many micro-batches: with weights in parts as many as other ranks make."""
        return self.ranks.most(own) if self.stack.sharded else own

    def deal(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that this rank reads."""
        return self.ranks.deal(rows, [g.num_input_tokens for g in self.train_state.groups(rows)])

    def _set_baseline(
        self, rows: Sequence[int], budget: Callable[[Sequence[Sequence[int]]], int]
    ) -> None:
        """The baseline of what all ranks read, within a budget that the micro-batches give."""
        state = self.train_state
        if "baseline" in state.objective.needs:
            # sums are sent when they are whole: a rank may need several attempts
            own, more = self.deal(rows), (rows[:1], self._passes)
            part = self.in_micro_batches(own, lambda b: drift(state, own, budget(b), *more))
            state.baseline = torch.div(*self.ranks.sum(part))

    def finish(self, dropped: list[Dropped]) -> Stats:
        """Write the best weights (the last without held-out rows) and the statistics; the first
        rank does."""
        state, examples = self.state, self.train_state.examples
        # the last weights may be worse than earlier ones: the rows held out decide
        if self.best:
            self.train_state.stack.set_trained(self.best)
        self.stack.gather(self.folder, keep=self.ranks.first)
        if not self.ranks.first:
            return {}
        if self.settings.extrapolate != 1:
            extrapolate(self.train_state.stack, self.inputs, self.settings.extrapolate)
        if self.settings.keep == "all":
            shutil.copytree(self.folder / "kept", self.inputs.out_dir / "checkpoints")
        # whose loss chose the weights: an evaluation on them is none of new rows
        looked_at = [{"id": examples[i].id} for i in self.held_out]
        self.inputs.out_dir.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.inputs.out_dir / "validation.jsonl", looked_at)
        more = {
            "cut": num_cut(examples),
            "rows_trained": len(self.trained),
            "rows_validation": len(self.held_out),
            "best_validation_loss": state.best_loss,
            "best_step": state.best_step,
            "start_validation_loss": dict(state.evaluations).get(0),
            "memory_splits": state.splits,
            "packing_efficiency": packing(self.train_state, self._first_epoch(), self.budget),
            **work(**self._work(state.tokens, state.trained_tokens)),
            "token_lengths": [example.group.longest for example in examples[:LENGTHS_KEPT]],
        }
        if warning := no_step_better(more):
            more["warning"] = warning
            self.progress.say(f"  {self.progress.stage}: {warning}")
        return self.write_result(self.train_state.stack, len(examples), dropped, more)

    def _first_epoch(self) -> list[list[int]]:
        """The rows of its steps."""
        return [self.rows_of(n) for n in range(min(self.steps_per_epoch, self.num_steps))]

    def _work(self, tokens: int, trained: int) -> dict[str, Any]:
        """What the operations for so many tokens are counted by."""
        full, config = self.settings.adapter is None, self.stack.net.config.to_dict()
        same = {"config": config, "full": full, "ranks": self.ranks.size}
        return {"tokens": tokens, "trained": trained, **same}

    def _evaluate(self) -> None:
        started, state, stack = time.monotonic(), self.state, self.train_state.stack
        own = self.deal(self.held_out)
        stack.net.eval()
        self._set_baseline(self.held_out, lambda _: self.budget)
        losses = partial(add_losses, self.train_state)
        part = self.in_micro_batches(own, lambda b: losses(b, **self.of_all(self.held_out, b)))
        totals = part.over(self.ranks)
        state.seconds += time.monotonic() - started
        state.evaluations.append((state.step, totals.loss))
        metrics = {f"validation_{name}": value for name, value in totals.metrics.items()}
        self.progress.log(step=state.step, validation_loss=totals.loss, **metrics)
        # weights before the first step are never the result
        if state.step and (state.best_loss is None or totals.loss < state.best_loss):
            state.best_loss, state.best_step = totals.loss, state.step
            # in the machine's memory: a GPU has none to spare for what no step reads; a part may
            # stay where its like are
            place = stack.device if stack.sharded and stack.top is None else "cpu"
            trained = stack.trained_state().items()
            self.best = {name: tensor.to(place, copy=True) for name, tensor in trained}
        if state.step and self.settings.keep == "all":
            stack.gather(self.folder, keep=self.ranks.first)
            if self.ranks.first:
                self.save(stack, self.folder / "kept" / f"step-{state.step}")

    def _load_reference(self) -> None:
        """The reference log-probabilities: read from the work folder, or computed and saved."""
        file, budget = self.folder / "references.safetensors", self.budget
        with self.ranks.first_alone():
            saved = kept_tensors(file)
        self.ranks.check_same(saved is not None, "whether the reference is there")
        if saved is None:
            micro_batches = self.train_state.micro_batches
            # the micro-batches of the first epoch: before it trains, the policy equals its
            # reference to the bit
            rows = [*self._first_epoch(), self.held_out]
            batches = [b for part in rows for b in micro_batches(self.deal(part), budget)]
            passes = self.of_all(rows[0], batches)["passes"]
            values: dict[int, Tensor] = {}
            with self.progress.bar("reference", len(batches)) as advance:
                for number, batch in enumerate(padded(batches, rows[0][:1], passes)):
                    found = self.in_micro_batches(batch, partial(reference, self.train_state))
                    values.update(found if number < len(batches) else {})
                    advance()
            # three tensors, not one a row: a file of a million would be slow to open
            saved = of_all_ranks(self.train_state, list(chain(*rows)), values, self.ranks)
            if self.ranks.first:
                save_tensors(file, saved)
        parts = torch.split(saved["values"], saved["sizes"].tolist())
        self.train_state.references = dict(zip(saved["rows"].tolist(), parts, strict=True))
