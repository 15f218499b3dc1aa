"""Training with an objective: reference, steps, evaluations on held-out rows, the best weights."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from bezoar.chat.types import Dropped
from bezoar.errors import DataError
from bezoar.io import content_hash, write_jsonl
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.resolve import tokenizer_identity
from bezoar.model.stack import Stack
from bezoar.model.tensors import kept_tensors, save_tensors
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.extrapolate import check_head, extrapolate
from bezoar.train.hardware import device_name, fresh_peak, peak_flops, step_flops
from bezoar.train.label_check import Example, check_labels
from bezoar.train.memory import llama_like
from bezoar.train.optim import epoch_order
from bezoar.train.settings import StageInputs, TrainSettings, no_step_better, step_counts
from bezoar.train.step import Totals, TrainState, evaluate, gradient, reference
from bezoar.train.tokenized_cache import identity, num_cut, num_input_tokens, prepare
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
    stack = Stack(inputs.spec, inputs.adapters)
    examples, dropped = _examples(settings, rows, inputs, stack, progress)
    # before the adapter and the head are drawn: the same seed gives the same first weights
    torch.manual_seed(seed)
    outputs: tuple[str, ...] = getattr(settings.objective, "outputs", ())
    if settings.extrapolate != 1:
        check_head(stack, outputs, progress.stage)
    parameters = stack.add_adapter(settings.adapter, seed=seed, outputs=outputs)
    train_state = TrainState(stack, settings.objective, examples, neftune=settings.neftune)
    trainer = SupervisedTrainer(settings, inputs, progress, seed, parameters, train_state)
    trainer.run()
    return trainer.finish(dropped)


def _examples(
    settings: TrainSettings, rows: Rows, inputs: StageInputs, stack: Stack, progress: Progress
) -> tuple[Sequence[Example], list[Dropped]]:
    """The rows as tokens, checked; those that cannot be trained are dropped."""
    objective, max_length, too_long = settings.objective, settings.max_length, settings.too_long
    check = partial(
        check_labels,
        objective=objective,
        template=inputs.template,
        tokenizer=stack.tokenizer,
        max_length=max_length,
        too_long=too_long,
    )
    # the cache is shared by runs: its key names all that the tokens and marks depend on
    names = repr(objective), repr(inputs.template), tokenizer_identity(inputs.spec)
    key = content_hash(*names, max_length, too_long)
    examples, dropped = prepare(rows, check, key=key, progress=progress)
    if not examples:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be trained; look at"
            " failures.jsonl or raise max_length."
        )
    # KTO's baseline is the mean over answers that do not belong to their prompts
    first_prompt = examples[0].group.prompt
    if "baseline" in objective.needs and all(e.group.prompt == first_prompt for e in examples):
        raise DataError(
            f"stage {progress.stage}: {objective.kind} reads each prompt with answers to another,"
            " and there is one prompt; add rows."
        )
    return examples, dropped


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
        return content_hash(settings, examples, stack, self.seed, torch.get_num_threads())

    def rows_of(self, step: int) -> list[int]:
        """The rows of a step (0-based); each epoch has its own order of all rows."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, size = epoch_order(len(self.trained), epoch, self.seed), self.settings.batch_size
        # sorted, so that equal sets of rows are cut into equal micro-batches
        return sorted(self.trained[i] for i in order[position * size : (position + 1) * size])

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
        totals = self.in_micro_batches(rows, self.gradient_of)
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
            **self._mfu(totals, seconds),
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

    def gradient_of(self, batches: list[list[int]]) -> Totals:
        """The gradient of a step that is cut into these micro-batches."""
        return gradient(self.train_state, batches, seed=self.seed, step=self.state.step)

    def finish(self, dropped: list[Dropped]) -> Stats:
        """Write the best weights (the last without held-out rows) and the statistics."""
        state, examples = self.state, self.train_state.examples
        # the last weights may be worse than earlier ones: the rows held out decide
        if self.best:
            self.train_state.stack.set_trained(self.best)
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
            "packing_efficiency": self._packing(),
            **self._work(),
            "token_lengths": [example.group.longest for example in examples[:LENGTHS_KEPT]],
        }
        if warning := no_step_better(more):
            more["warning"] = warning
            self.progress.say(f"  {self.progress.stage}: {warning}")
        return self.write_result(self.train_state.stack, len(examples), dropped, more)

    def _packing(self) -> float:
        """The share of tokens_per_batch that the micro-batches of an epoch fill; none is padded."""
        num_steps, tokens = min(self.steps_per_epoch, self.num_steps), list[int]()
        for step in range(num_steps):
            for batch in self.train_state.micro_batches(self.rows_of(step), self.budget):
                groups = self.train_state.groups(batch)
                tokens.append(sum(group.num_input_tokens for group in groups))
        return round(sum(tokens) / max(sum(max(self.budget, num) for num in tokens), 1), 4)

    def _mfu(self, totals: Totals, seconds: float) -> dict[str, float]:
        """The share of the GPU's arithmetic that a step used; empty if it is not known."""
        peak, config = peak_flops(), self.train_state.stack.net.config.to_dict()
        if peak is None or not llama_like(config):
            return {}
        full = self.settings.adapter is None
        flops = step_flops(config, tokens=totals.tokens, trained=totals.trained, full=full)
        return {"mfu": round(flops / seconds / peak, 4)}

    def _work(self) -> dict[str, Any]:
        """The device and the operations that it did, by which `bezoar plan` tells how long another
        stage takes; empty for an architecture that is not known."""
        state, config = self.state, self.train_state.stack.net.config.to_dict()
        if not llama_like(config):
            return {}
        full = self.settings.adapter is None
        flops = step_flops(config, tokens=state.tokens, trained=state.trained_tokens, full=full)
        return {"device": device_name(), "flops": flops}

    def _evaluate(self) -> None:
        started, state, stack = time.monotonic(), self.state, self.train_state.stack
        totals = self.in_micro_batches(
            self.held_out, lambda _: evaluate(self.train_state, self.held_out, self.budget)
        )
        state.seconds += time.monotonic() - started
        state.evaluations.append((state.step, totals.loss))
        metrics = {f"validation_{name}": value for name, value in totals.metrics.items()}
        self.progress.log(step=state.step, validation_loss=totals.loss, **metrics)
        # weights before the first step are never the result
        if state.step and (state.best_loss is None or totals.loss < state.best_loss):
            state.best_loss, state.best_step = totals.loss, state.step
            # in the machine's memory: a GPU has none to spare for what no step reads
            trained = stack.trained_state().items()
            self.best = {name: tensor.to("cpu", copy=True) for name, tensor in trained}
        if state.step and self.settings.keep == "all":
            self.save(stack, self.folder / "kept" / f"step-{state.step}")

    def _load_reference(self) -> None:
        """The reference log-probabilities: read from the work folder, or computed and saved."""
        file, budget = self.folder / "references.safetensors", self.budget
        saved = kept_tensors(file)
        if saved is None:
            micro_batches = self.train_state.micro_batches
            num_steps = min(self.steps_per_epoch, self.num_steps)
            # the micro-batches of the first epoch: before it trains, the policy equals its
            # reference to the bit
            batches = [b for n in range(num_steps) for b in micro_batches(self.rows_of(n), budget)]
            batches += micro_batches(self.held_out, budget)
            values: dict[int, Tensor] = {}
            with self.progress.bar("reference", len(batches)) as advance:
                for batch in batches:
                    found = self.in_micro_batches(batch, partial(reference, self.train_state))
                    values.update(found)
                    advance()
            # three tensors, not one a row: a file of a million would be slow to open
            saved = {
                "rows": torch.tensor(list(values)),
                "sizes": torch.tensor([len(value) for value in values.values()]),
                "values": torch.cat(list(values.values())),
            }
            save_tensors(file, saved)
        parts = torch.split(saved["values"], saved["sizes"].tolist())
        self.train_state.references = dict(zip(saved["rows"].tolist(), parts, strict=True))
