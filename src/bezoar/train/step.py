"""One optimiser step's gradient: the only place where losses are averaged.

The units (tokens, answers or pairs) of the whole step are counted first, and every micro-batch divides its sum by that
count: the gradient does not depend on how the step is cut into micro-batches.

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
from bezoar.model.flat import Flat, flatten
from bezoar.model.head import logprobs
from bezoar.model.stack import Stack
from bezoar.model.tree import Tree, pack
from bezoar.train.proof import Item
from bezoar.train.terms import Batch, Objective, Terms, Unit


@dataclass
class Totals:
    """Means over the units of a step or an evaluation, and what was read for them."""

    units: int = 0
    tokens: int = 0
    trained: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, terms: Terms, units: int) -> None:
        """Add a micro-batch's share of the means."""
        self.loss += float(terms.loss.detach().double().sum()) / units
        for name, values in terms.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(values.double().sum()) / units


@dataclass
class Work:
    """What every forward pass of a stage needs: the stack, the objective, the rows and, by row, the reference log-probabilities."""

    stack: Stack
    objective: Objective
    items: Sequence[Item]
    references: dict[int, Tensor] = field(default_factory=dict)  # row -> [A] of its trained tokens
    baseline: Tensor | None = None  # [] of the step under way
    neftune: float = 0.0

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """`rows` in groups of at most `budget` tokens, best fit first."""
        groups = pack([self.items[i].tree.num_fed for i in rows], budget)
        return [[rows[i] for i in group] for group in groups]

    def units(self, rows: Sequence[int]) -> int:
        """How many units of the objective the rows hold."""
        return sum(count_units(self.items[i].tree, self.objective.unit) for i in rows)

    def forward(self, rows: Sequence[int]) -> Terms:
        """The terms of one micro-batch, in one flat row."""
        trees = [self.items[i].tree for i in rows]
        values, batch = self.scores(trees) if "scores" in self.objective.needs else self.logprobs(trees)
        if "reference" in self.objective.needs:
            batch.reference = torch.cat([self.references[i] for i in rows]).to(values.device)
        batch.baseline = self.baseline
        if trees[0].facts:
            batch.facts = torch.tensor([tree.facts for tree in trees], device=values.device)
        terms = self.objective.loss(batch, values)
        if terms.loss.shape != (self.units(rows),):
            raise ValueError(f"{self.objective.kind}: the loss must have one value a {self.objective.unit}")
        return terms

    def logprobs(self, trees: Sequence[Tree]) -> tuple[Tensor, Batch]:
        """Log-probabilities [A] of the trained tokens of one micro-batch."""
        hidden, flat = self._hidden(trees)
        return logprobs(hidden, self.stack.head_weight, flat.target), Batch(flat.owner, flat.num_answers)

    def scores(self, trees: Sequence[Tree]) -> tuple[Tensor, Batch]:
        """Outputs [N, K] of the score head for the answers of one micro-batch."""
        hidden, flat = self._hidden(trees)
        assert self.stack.score_head is not None
        return self.stack.score_head(hidden), Batch(flat.owner, flat.num_answers)

    def _hidden(self, trees: Sequence[Tree]) -> tuple[Tensor, Flat]:
        flat = flatten(trees).to(self.stack.device)
        with self._noise(flat):
            return states(self.stack, flat)[0], flat

    @contextmanager
    def _noise(self, flat: Flat) -> Iterator[None]:
        """Uniform noise on the embeddings while training, of size neftune / sqrt(length E) (NEFTune, arXiv 2310.05914)."""
        if not self.neftune or not self.stack.net.training:
            yield
            return

        def add(module: Any, inputs: Any, out: Tensor) -> Tensor:
            size = self.neftune * (flat.lengths * out.shape[-1]).rsqrt()
            return out + (torch.rand_like(out) * 2 - 1) * size[:, None].to(out.dtype)

        hook = self.stack.net.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


def count_units(tree: Tree, unit: Unit) -> int:
    """Units in one row."""
    if unit == "token":
        return sum(branch.num_trained for branch in tree.branches)
    if unit == "label":
        return sum(not math.isnan(fact) for fact in tree.facts)
    return {"answer": len(tree.branches), "pair": len(tree.branches) // 2, "group": 1}[unit]


def autocast(stack: Stack) -> AbstractContextManager[object]:
    """bf16 computation on float32 weights, opened for one forward pass; None where the weights are in the precision of the work."""
    if stack.spec.dtype == "bfloat16" and stack.head_weight.dtype == torch.float32:
        return torch.autocast(stack.device.type, dtype=torch.bfloat16)
    return nullcontext()


def states(stack: Stack, flat: Flat) -> tuple[Tensor, Tensor]:
    """The states [A, E] before the trained tokens, in the precision of the work and as the last layer gives them."""
    with autocast(stack) as mixed:
        hidden = stack.hidden(flat)
    return (hidden.bfloat16() if mixed else hidden), hidden


def gradient(work: Work, groups: list[list[int]], *, seed: int, step: int) -> Totals:
    """Add the gradient of the mean loss over all units of `groups` to the parameters.

    Dropout draws from a generator seeded by (seed, step, number of the micro-batch): a resumed run draws the same.
    TrainingError names the rows of a micro-batch whose loss is not a finite number.
    """
    work.stack.net.train()
    rows = [i for group in groups for i in group]
    units, totals = work.units(rows), Totals()
    work.baseline = baseline(work, rows, max(sum(work.items[i].tree.num_fed for i in group) for group in groups))
    for number, group in enumerate(groups):
        torch.manual_seed(int(content_hash(seed, step, number), 16) % 2**63)
        terms = work.forward(group)
        loss = terms.loss.sum() / units
        if not torch.isfinite(loss):
            names = ", ".join(work.items[i].id for i in group)
            raise TrainingError(f"step {step}: the loss is {loss.item()} on the rows {names}; look at them, or lower lr.")
        loss.backward()  # type: ignore[no-untyped-call]
        totals.add(terms, units)
        _count(totals, work, group)
    totals.units = units
    return totals


@torch.no_grad()
def evaluate(work: Work, rows: Sequence[int], budget: int) -> Totals:
    """The mean loss and metrics of `rows`, dropout off."""
    work.stack.net.eval()
    units, totals = work.units(rows), Totals()
    work.baseline = baseline(work, rows, budget)
    for group in work.micro_batches(rows, budget):
        totals.add(work.forward(group), units)
        _count(totals, work, group)
    totals.units = units
    return totals


def _count(totals: Totals, work: Work, rows: Sequence[int]) -> None:
    totals.tokens += sum(work.items[i].tree.num_fed for i in rows)
    totals.trained += sum(count_units(work.items[i].tree, "token") for i in rows)


@torch.no_grad()
def baseline(work: Work, rows: Sequence[int], budget: int) -> Tensor | None:
    """Mean of log pi(y'|x) - log ref(y'|x) over rows, y' the answers of the next row with another prompt; None where not needed.

    KTO's reference point (arXiv 2402.01306, section 4.1), over the whole step; dropout off. Which row follows does not depend on the step.
    """
    if "baseline" not in work.objective.needs:
        return None
    training = work.stack.net.training
    work.stack.net.eval()
    trees = [Tree(work.items[i].tree.trunk, _other(work, i).branches) for i in rows]
    total, count = torch.zeros(()), 0
    for group in pack([tree.num_fed for tree in trees], budget):
        mine = [trees[i] for i in group]
        moved, batch = work.logprobs(mine)
        with work.stack.without_top():
            moved = moved - work.logprobs(mine)[0]
        total, count = total + moved.sum(), count + batch.num_answers
    work.stack.net.train(training)
    return total / count


def _other(work: Work, row: int) -> Tree:
    """The next row of the stage, round and round, with another prompt."""
    own, count = work.items[row].tree.trunk, len(work.items)
    return next(tree for i in range(1, count) if (tree := work.items[(row + i) % count].tree).trunk != own)


@torch.no_grad()
def reference(work: Work, groups: list[list[int]]) -> dict[int, Tensor]:
    """By row, the log-probabilities of its trained tokens under the stack below, on the CPU.

    On the micro-batches that the first epoch trains on, the forward pass is the same to the bit: a policy that has not
    trained yet equals its reference exactly.
    """
    work.stack.net.eval()
    values: dict[int, Tensor] = {}
    with work.stack.without_top():
        for group in groups:
            sizes = [count_units(work.items[i].tree, "token") for i in group]
            parts = torch.split(work.logprobs([work.items[i].tree for i in group])[0].cpu(), sizes)
            values.update({i: part.clone() for i, part in zip(group, parts, strict=True)})
    return values
