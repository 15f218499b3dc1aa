"""The gradient of one optimizer step: the only place where losses are averaged.

The units (tokens, answers, pairs ...) of the whole step are counted first, and every micro-batch
divides its sum by that count: the gradient does not depend on how the step is cut.

A trained tokens of a micro-batch, N answers, E hidden size, K outputs of a score head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import TrainingError
from bezoar.io import content_hash
from bezoar.model.packed import PackedBatch, pack
from bezoar.model.prompt_group import PromptGroup, micro_batches, num_read
from bezoar.model.stack import Stack
from bezoar.train.label_check import Example
from bezoar.train.objective import LossInputs, LossOutput, Objective
from bezoar.train.ranks import Ranks
from bezoar.train.totals import Totals as Totals
from bezoar.train.totals import count_units as count_units


@dataclass
class TrainState:
    """What every forward pass of a stage needs."""

    stack: Stack
    objective: Objective
    examples: Sequence[Example]
    references: dict[int, Tensor] = field(default_factory=dict)  # row -> [A] of its trained tokens
    baseline: Tensor | None = None  # [] of the step under way
    neftune: float = 0.0

    def groups(self, rows: Sequence[int]) -> list[PromptGroup]:
        """The token groups of rows."""
        return [self.examples[i].group for i in rows]

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """`rows` in groups of at most `budget` tokens, best fit first."""
        return [[rows[i] for i in batch] for batch in micro_batches(self.groups(rows), budget)]

    def units(self, rows: Sequence[int]) -> int:
        """How many units of the objective the rows hold."""
        return sum(count_units(group, self.objective.unit) for group in self.groups(rows))

    def forward(self, rows: Sequence[int]) -> LossOutput:
        """The loss of one micro-batch, which is read as one packed row."""
        needs, groups = self.objective.needs, self.groups(rows)
        values, batch = self.scores(groups) if "scores" in needs else self.logprobs(groups)
        if "reference" in needs:
            batch.reference = torch.cat([self.references[i] for i in rows]).to(values.device)
        batch.baseline = self.baseline
        if groups[0].labels:
            batch.labels = torch.tensor([group.labels for group in groups], device=values.device)
        output = self.objective.loss(batch, values)
        # a mean here would be divided again, which no later number would show
        if output.loss.shape != (self.units(rows),):
            raise ValueError(
                f"{self.objective.kind}: the loss must have one value a {self.objective.unit}"
            )
        return output

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, LossInputs]:
        """Log-probabilities [A] of the trained tokens of one micro-batch."""
        hidden, batch = self._hidden(groups)
        values = self.stack.output.logprobs(hidden, batch.target)
        return values, LossInputs(batch.answer_index, batch.num_answers)

    def scores(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, LossInputs]:
        """Outputs [N, K] of the score head for the answers of one micro-batch."""
        hidden, batch = self._hidden(groups)
        assert self.stack.score_head is not None
        return self.stack.score_head(hidden), LossInputs(batch.answer_index, batch.num_answers)

    def _hidden(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, PackedBatch]:
        """The states [A, E] before the trained tokens."""
        batch = pack(groups).to(self.stack.device)
        with self._noise(batch):
            return states(self.stack, batch)[0], batch

    @contextmanager
    def _noise(self, batch: PackedBatch) -> Iterator[None]:
        """Uniform noise on the embeddings in training, of size neftune / sqrt(length E).

        NEFTune, arXiv 2310.05914.
        """
        if not self.neftune or not self.stack.net.training:
            yield
            return

        def add(module: Any, inputs: Any, out: Tensor) -> Tensor:
            # [A tokens], each the length of its sequence: long ones get less noise
            size = self.neftune * (batch.lengths * out.shape[-1]).rsqrt()
            return out + (torch.rand_like(out) * 2 - 1) * size[:, None].to(out.dtype)

        hook = self.stack.net.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


def autocast(stack: Stack) -> AbstractContextManager[object]:
    """bfloat16 computation on float32 weights; nothing if the weights have its precision."""
    if stack.spec.dtype == "bfloat16" and stack.head_weight.dtype == torch.float32:
        return torch.autocast(stack.device.type, dtype=torch.bfloat16)
    return nullcontext()


def states(stack: Stack, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """The states [A, E] before the trained tokens: in the precision of the computation, and as the
    last layer gives them."""
    with autocast(stack) as mixed:
        hidden = stack.hidden(batch)
    return (hidden.bfloat16() if mixed else hidden), hidden


def gradient(state: TrainState, batches: list[list[int]], *, seed: int, step: int) -> Totals:
    """Add the gradient of the mean loss over all units of `batches` to the parameters.

    TrainingError names the rows of a micro-batch whose loss is not a finite number.
    """
    state.stack.net.train()
    rows = [i for batch in batches for i in batch]
    state.baseline = baseline(state, rows, largest(state, batches))
    return add_gradient(state, batches, units=state.units(rows), seed=seed, step=step)


def add_gradient(
    state: TrainState,
    batches: list[list[int]],
    *,
    units: int,
    seed: int,
    step: int,
    rank: int = 0,
    spare: Sequence[int] = (),
    passes: int = 1,
) -> Totals:
    """The part of a step's gradient that these micro-batches make: the loss of its `units`, which
    are those of all ranks, is divided by their number.

    A rank with fewer micro-batches than `passes` reads the rows `spare` besides, which count
    nothing.
    """
    state.stack.net.train()
    # of all ranks: divided by the units of a micro-batch or of a rank, rows of small ones would
    # weigh more
    totals = Totals(units=units)
    for number, batch in enumerate(padded(batches, spare, passes)):
        counts = number < len(batches)
        # 1) dropout depends on (seed, step, micro-batch): a resumed run draws the same
        of_rank = [rank] if rank else []
        torch.manual_seed(int(content_hash(seed, step, number, *of_rank), 16) % 2**63)
        output = state.forward(batch)
        # 2) backward at once: it frees the activations before the next micro-batch is read
        loss = output.loss.sum() / units
        if not torch.isfinite(loss):
            names = ", ".join(state.examples[i].id for i in batch)
            raise TrainingError(
                f"step {step}: the loss is {loss.item()} on the rows {names}; look at them, or"
                " lower lr."
            )
        torch.autograd.backward(loss * counts)
        # a rank without rows knows the names, which the sum over ranks needs; one that reads rows
        # for the sake of others has its own
        if counts or not batches:
            totals.add(output, state.groups(batch))
    return totals if batches else totals.names()


def padded(batches: list[list[int]], spare: Sequence[int], passes: int) -> list[list[int]]:
    """The micro-batches, and `spare` as often as a rank needs for so many `passes`."""
    return batches + [list(spare)] * (passes - len(batches))


def largest(state: TrainState, batches: Sequence[Sequence[int]]) -> int:
    """The tokens of the fullest micro-batch; 0 of none."""
    return max((num_read(state.groups(batch)) for batch in batches), default=0)


def evaluate(state: TrainState, rows: Sequence[int], budget: int) -> Totals:
    """The mean loss and metrics of `rows`, dropout off."""
    state.stack.net.eval()
    state.baseline = baseline(state, rows, budget)
    return add_losses(state, state.micro_batches(rows, budget), units=state.units(rows))


@torch.no_grad()
def add_losses(
    state: TrainState,
    batches: list[list[int]],
    *,
    units: int,
    spare: Sequence[int] = (),
    passes: int = 1,
) -> Totals:
    """The part of an evaluation's means that these micro-batches make; else as `add_gradient`."""
    state.stack.net.eval()
    totals = Totals(units=units)
    for number, batch in enumerate(padded(batches, spare, passes)):
        output = state.forward(batch)
        if number < len(batches) or not batches:
            totals.add(output, state.groups(batch))
    return totals if batches else totals.names()


def baseline(state: TrainState, rows: Sequence[int], budget: int) -> Tensor | None:
    """Mean of log pi(y'|x) - log ref(y'|x), y' the answers of the next row with another prompt.

    KTO's reference point (arXiv 2402.01306, section 4.1), over the whole step and without dropout;
    None if the objective does not need it. Which row is next does not depend on the step.
    """
    if "baseline" not in state.objective.needs:
        return None
    moved = drift(state, rows, budget)
    return moved[0] / moved[1]


@torch.no_grad()
def drift(
    state: TrainState,
    rows: Sequence[int],
    budget: int,
    spare: Sequence[int] = (),
    passes: Callable[[int], int] = int,
) -> Tensor:
    """[2], the sum that `baseline` is the mean of, and the number of its answers. `passes` gives
    those that all ranks make from the number of this one's micro-batches; else as `add_gradient`.
    """
    # in one mode for the policy and the reference: with dropout z would be noise
    training = state.stack.net.training
    state.stack.net.eval()
    groups = [
        PromptGroup(state.examples[i].group.prompt, _other(state, i).completions)
        for i in (*rows, *spare)
    ]
    own, more = micro_batches(groups[: len(rows)], budget), range(len(rows), len(groups))
    total, count = torch.zeros((), device=state.stack.device), 0
    for number, indices in enumerate(padded(own, more, passes(len(own)))):
        mismatched = [groups[i] for i in indices]
        moved, batch = state.logprobs(mismatched)  # [A]
        with state.stack.disable_adapter():
            moved = moved - state.logprobs(mismatched)[0]
        if number < len(own):
            total, count = total + moved.sum(), count + batch.num_answers
    state.stack.net.train(training)
    return torch.stack([total, torch.full_like(total, count)])


def _other(state: TrainState, row: int) -> PromptGroup:
    """The next row of the stage, from the last to the first again, with another prompt."""
    own, count = state.examples[row].group.prompt, len(state.examples)
    later = (state.examples[(row + i) % count].group for i in range(1, count))
    return next(group for group in later if group.prompt != own)


@torch.no_grad()
def reference(state: TrainState, batches: list[list[int]]) -> dict[int, Tensor]:
    """By row, the log-probabilities of its trained tokens under the stack below, on the CPU.

    On the micro-batches of training the forward pass is the same to the bit: a policy that has not
    trained yet equals its reference exactly.
    """
    state.stack.net.eval()
    values: dict[int, Tensor] = {}
    with state.stack.disable_adapter():
        for batch in batches:
            groups = state.groups(batch)
            sizes = [count_units(group, "token") for group in groups]
            parts = torch.split(state.logprobs(groups)[0].cpu(), sizes)
            # clones, because a part of a split keeps the whole tensor in memory
            values.update({i: part.clone() for i, part in zip(batch, parts, strict=True)})
    return values


def of_all_ranks(
    state: TrainState, rows: list[int], own: dict[int, Tensor], ranks: Ranks
) -> dict[str, Tensor]:
    """The reference of `rows` from the rows that each rank has read."""
    sizes = [count_units(group, "token") for group in state.groups(rows)]
    # zeros for what other ranks have: a sum of one number and zeros is that number
    values = [own[i] if i in own else torch.zeros(n) for i, n in zip(rows, sizes, strict=True)]
    found = {"rows": torch.tensor(rows), "sizes": torch.tensor(sizes)}
    return {**found, "values": ranks.sum(torch.cat(values).float())}


def packing(state: TrainState, steps: list[list[int]], budget: int) -> float:
    """The share of `budget` that the micro-batches of some steps fill; none is padded."""
    batches = (batch for rows in steps for batch in state.micro_batches(rows, budget))
    tokens = [num_read(state.groups(batch)) for batch in batches]
    return round(sum(tokens) / max(sum(max(budget, num) for num in tokens), 1), 4)
