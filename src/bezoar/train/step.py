"""One optimiser step's gradient: the only place where losses are averaged.

The units (tokens, answers or pairs) of the whole step are counted first, and every micro-batch
divides its sum by that count: the gradient does not depend on how the step is cut into
micro-batches.

A trained tokens of a micro-batch, N answers, E hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import TrainingError
from bezoar.io import content_hash
from bezoar.model.chunked_logprobs import logprobs
from bezoar.model.packed import PackedBatch, pack
from bezoar.model.prompt_group import PromptGroup, best_fit
from bezoar.model.stack import Stack
from bezoar.train.label_check import Example
from bezoar.train.objective import LossInputs, LossOutput, Objective, Unit


@dataclass
class Totals:
    """Means over the units of a step or an evaluation, and what was read for them."""

    units: int = 0
    tokens: int = 0
    trained: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, terms: LossOutput, units: int) -> None:
        """Add a micro-batch's share of the means."""
        self.loss += float(terms.loss.detach().double().sum()) / units
        for name, values in terms.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(values.double().sum()) / units


@dataclass
class TrainState:
    """What every forward pass of a stage needs: the stack, the objective, the rows and, by row, the
    reference log-probabilities."""

    stack: Stack
    objective: Objective
    items: Sequence[Example]
    references: dict[int, Tensor] = field(default_factory=dict)  # row -> [A] of its trained tokens
    baseline: Tensor | None = None  # [] of the step under way
    neftune: float = 0.0

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """`rows` in groups of at most `budget` tokens, best fit first."""
        batches = best_fit([self.items[i].group.num_input_tokens for i in rows], budget)
        return [[rows[i] for i in micro_batch] for micro_batch in batches]

    def units(self, rows: Sequence[int]) -> int:
        """How many units of the objective the rows hold."""
        return sum(count_units(self.items[i].group, self.objective.unit) for i in rows)

    def forward(self, rows: Sequence[int]) -> LossOutput:
        """The terms of one micro-batch, in one flat row."""
        groups = [self.items[i].group for i in rows]
        values, batch = (
            self.scores(groups) if "scores" in self.objective.needs else self.logprobs(groups)
        )
        if "reference" in self.objective.needs:
            batch.reference = torch.cat([self.references[i] for i in rows]).to(values.device)
        batch.baseline = self.baseline
        if groups[0].labels:
            batch.labels = torch.tensor([group.labels for group in groups], device=values.device)
        terms = self.objective.loss(batch, values)
        if terms.loss.shape != (self.units(rows),):
            raise ValueError(
                f"{self.objective.kind}: the loss must have one value a {self.objective.unit}"
            )
        return terms

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, LossInputs]:
        """Log-probabilities [A] of the trained tokens of one micro-batch."""
        hidden, batch = self._hidden(groups)
        return logprobs(hidden, self.stack.head_weight, batch.target), LossInputs(
            batch.answer_index, batch.num_answers
        )

    def scores(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, LossInputs]:
        """Outputs [N, K] of the score head for the answers of one micro-batch."""
        hidden, batch = self._hidden(groups)
        assert self.stack.score_head is not None
        return self.stack.score_head(hidden), LossInputs(batch.answer_index, batch.num_answers)

    def _hidden(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, PackedBatch]:
        batch = pack(groups).to(self.stack.device)
        with self._noise(batch):
            return states(self.stack, batch)[0], batch

    @contextmanager
    def _noise(self, batch: PackedBatch) -> Iterator[None]:
        """Uniform noise on the embeddings while training, of size neftune / sqrt(length E)
        (NEFTune, arXiv 2310.05914)."""
        if not self.neftune or not self.stack.net.training:
            yield
            return

        def add(module: Any, inputs: Any, out: Tensor) -> Tensor:
            size = self.neftune * (batch.lengths * out.shape[-1]).rsqrt()
            return out + (torch.rand_like(out) * 2 - 1) * size[:, None].to(out.dtype)

        hook = self.stack.net.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


def count_units(group: PromptGroup, unit: Unit) -> int:
    """Units in one row."""
    if unit == "token":
        return sum(completion.num_trained for completion in group.completions)
    if unit == "label":
        return sum(not math.isnan(fact) for fact in group.labels)
    return {"answer": len(group.completions), "pair": len(group.completions) // 2, "group": 1}[unit]


def autocast(stack: Stack) -> AbstractContextManager[object]:
    """bf16 computation on float32 weights, opened for one forward pass; None where the weights are
    in the precision of the work."""
    if stack.spec.dtype == "bfloat16" and stack.head_weight.dtype == torch.float32:
        return torch.autocast(stack.device.type, dtype=torch.bfloat16)
    return nullcontext()


def states(stack: Stack, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """The states [A, E] before the trained tokens, in the precision of the work and as the last
    layer gives them."""
    with autocast(stack) as mixed:
        hidden = stack.hidden(batch)
    return (hidden.bfloat16() if mixed else hidden), hidden


def gradient(work: TrainState, batches: list[list[int]], *, seed: int, step: int) -> Totals:
    """Add the gradient of the mean loss over all units of `batches` to the parameters.

    Dropout draws from a generator seeded by (seed, step, number of the micro-batch): a resumed run
    draws the same. TrainingError names the rows of a micro-batch whose loss is not a finite number.
    """
    work.stack.net.train()
    rows = [i for micro_batch in batches for i in micro_batch]
    units, totals = work.units(rows), Totals()
    work.baseline = baseline(
        work,
        rows,
        max(
            sum(work.items[i].group.num_input_tokens for i in micro_batch)
            for micro_batch in batches
        ),
    )
    for number, micro_batch in enumerate(batches):
        torch.manual_seed(int(content_hash(seed, step, number), 16) % 2**63)
        terms = work.forward(micro_batch)
        loss = terms.loss.sum() / units
        if not torch.isfinite(loss):
            names = ", ".join(work.items[i].id for i in micro_batch)
            raise TrainingError(
                f"step {step}: the loss is {loss.item()} on the rows {names}; look at them, or"
                " lower lr."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        totals.add(terms, units)
        _count(totals, work, micro_batch)
    totals.units = units
    return totals


@torch.no_grad()
def evaluate(work: TrainState, rows: Sequence[int], budget: int) -> Totals:
    """The mean loss and metrics of `rows`, dropout off."""
    work.stack.net.eval()
    units, totals = work.units(rows), Totals()
    work.baseline = baseline(work, rows, budget)
    for micro_batch in work.micro_batches(rows, budget):
        totals.add(work.forward(micro_batch), units)
        _count(totals, work, micro_batch)
    totals.units = units
    return totals


def _count(totals: Totals, work: TrainState, rows: Sequence[int]) -> None:
    totals.tokens += sum(work.items[i].group.num_input_tokens for i in rows)
    totals.trained += sum(count_units(work.items[i].group, "token") for i in rows)


@torch.no_grad()
def baseline(work: TrainState, rows: Sequence[int], budget: int) -> Tensor | None:
    """Mean of log pi(y'|x) - log ref(y'|x) over rows, y' the answers of the next row with another
    prompt; None where not needed.

    KTO's reference point (arXiv 2402.01306, section 4.1), over the whole step; dropout off. Which
    row follows does not depend on the step.
    """
    if "baseline" not in work.objective.needs:
        return None
    training = work.stack.net.training
    work.stack.net.eval()
    groups = [PromptGroup(work.items[i].group.prompt, _other(work, i).completions) for i in rows]
    total, count = torch.zeros(()), 0
    for micro_batch in best_fit([group.num_input_tokens for group in groups], budget):
        mine = [groups[i] for i in micro_batch]
        moved, batch = work.logprobs(mine)
        with work.stack.disable_adapter():
            moved = moved - work.logprobs(mine)[0]
        total, count = total + moved.sum(), count + batch.num_answers
    work.stack.net.train(training)
    return total / count


def _other(work: TrainState, row: int) -> PromptGroup:
    """The next row of the stage, round and round, with another prompt."""
    own, count = work.items[row].group.prompt, len(work.items)
    return next(
        group
        for i in range(1, count)
        if (group := work.items[(row + i) % count].group).prompt != own
    )


@torch.no_grad()
def reference(work: TrainState, batches: list[list[int]]) -> dict[int, Tensor]:
    """By row, the log-probabilities of its trained tokens under the stack below, on the CPU.

    On the micro-batches that the first epoch trains on, the forward pass is the same to the bit: a
    policy that has not trained yet equals its reference exactly.
    """
    work.stack.net.eval()
    values: dict[int, Tensor] = {}
    with work.stack.disable_adapter():
        for micro_batch in batches:
            sizes = [count_units(work.items[i].group, "token") for i in micro_batch]
            parts = torch.split(
                work.logprobs([work.items[i].group for i in micro_batch])[0].cpu(), sizes
            )
            values.update({i: part.clone() for i, part in zip(micro_batch, parts, strict=True)})
    return values
