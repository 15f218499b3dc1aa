"""What a stack makes of given answers, without gradients: log-probabilities or head outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.model.packed import PackedBatch, pack
from bezoar.model.prompt_group import PromptGroup, micro_batches
from bezoar.model.stack import Stack

T = TypeVar("T")
MOST_SCORED = 4096
"""Tokens that are read at once."""


@dataclass(frozen=True)
class Scored:
    """Log-probabilities (nats) of an answer's scored tokens."""

    logprobs: Tensor  # float32, on the CPU
    greedy: bool  # whether greedy decoding writes them

    @property
    def total(self) -> float:
        """The log-probability of the whole answer."""
        return float(self.logprobs.double().sum())


def score(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = MOST_SCORED
) -> list[list[Scored]]:
    """The scores of every answer of every group; at most `max_tokens` tokens are read at once."""

    def read(batch: PackedBatch) -> list[Scored]:
        hidden = stack.hidden(batch)  # [A, E]
        values, greedy = stack.output.logprobs_and_greedy(hidden, batch.target)
        sizes = torch.bincount(batch.answer_index, minlength=batch.num_answers).tolist()
        parts = torch.split(values.cpu(), sizes), torch.split(greedy.cpu(), sizes)
        return [Scored(part, bool(same.all())) for part, same in zip(*parts, strict=True)]

    return _by_group(stack, groups, read, max_tokens)


def rewards(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = MOST_SCORED
) -> list[list[list[float]]]:
    """The K outputs of the head for every answer of every group that `score_group` made."""
    head = stack.score_head
    if head is None:
        raise DataError(f"{stack.spec.path}: the model has no score head; name a reward model.")
    stack.net.eval()
    return _by_group(stack, groups, lambda batch: head(stack.hidden(batch)).tolist(), max_tokens)


@torch.no_grad()
def _by_group(
    stack: Stack,
    groups: Sequence[PromptGroup],
    read: Callable[[PackedBatch], list[T]],
    max_tokens: int,
) -> list[list[T]]:
    """The values that `read` gives for the answers of a batch, group by group."""
    results: list[list[T]] = [[] for _ in groups]
    for micro_batch in micro_batches(groups, max_tokens):
        values = iter(read(pack([groups[i] for i in micro_batch]).to(stack.device)))
        for i in micro_batch:
            results[i] = [next(values) for _ in groups[i].completions]
    return results
