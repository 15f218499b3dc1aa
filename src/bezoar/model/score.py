"""What a stack makes of given answers, without gradients: log-probabilities or head outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.model.chunked_logprobs import logprobs_and_greedy
from bezoar.model.packed import PackedBatch, pack
from bezoar.model.prompt_group import Completion, PromptGroup, best_fit
from bezoar.model.stack import Stack

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """Log-probabilities (nats, float32, on the CPU) of an answer's scored tokens.

    `greedy` says whether greedy decoding writes them.
    """

    logprobs: Tensor
    greedy: bool

    @property
    def total(self) -> float:
        """The log-probability of the whole answer."""
        return float(self.logprobs.double().sum())


def score(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = 4096
) -> list[list[Scored]]:
    """The scores of every answer of every group; at most `max_tokens` tokens are read at once."""

    def read(batch: PackedBatch, groups: list[PromptGroup]) -> list[Scored]:
        hidden = stack.hidden(batch)  # [A, E]
        logprobs, greedy = logprobs_and_greedy(hidden, stack.head_weight, batch.target)
        sizes = [answer.num_trained for group in groups for answer in group.completions]
        parts = zip(
            torch.split(logprobs.cpu(), sizes), torch.split(greedy.cpu(), sizes), strict=True
        )
        return [Scored(part, bool(same.all())) for part, same in parts]

    return _by_group(stack, groups, max_tokens, read)


def score_group(
    prompt: Sequence[int], answers: Sequence[Sequence[int]], labels: tuple[float, ...] = ()
) -> PromptGroup:
    """A prompt and answers with their end tokens, for a score head.

    The head reads the state of the end token. A state counts where it predicts a trained token, so
    one token, never fed, follows the end.
    """
    completions = [
        Completion([*answer, answer[-1]], [False] * len(answer) + [True]) for answer in answers
    ]
    return PromptGroup(list(prompt), completions, labels)


def rewards(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = 4096
) -> list[list[list[float]]]:
    """The K outputs of the head for every answer of every group that `score_group` made."""
    head = stack.score_head
    if head is None:
        raise DataError(f"{stack.spec.path}: the model has no score head; name a reward model.")

    def read(batch: PackedBatch, groups: list[PromptGroup]) -> list[list[float]]:
        outputs: list[list[float]] = head(stack.hidden(batch)).tolist()
        return outputs

    stack.net.eval()
    return _by_group(stack, groups, max_tokens, read)


@torch.no_grad()
def _by_group(
    stack: Stack,
    groups: Sequence[PromptGroup],
    max_tokens: int,
    read: Callable[[PackedBatch, list[PromptGroup]], list[T]],
) -> list[list[T]]:
    """`read` gives one value for each answer of a batch; they are returned group by group."""
    results: list[list[T]] = [[] for _ in groups]
    for micro_batch in best_fit([group.num_input_tokens for group in groups], max_tokens):
        batch_groups = [groups[i] for i in micro_batch]
        values = iter(read(pack(batch_groups).to(stack.device), batch_groups))
        for i in micro_batch:
            results[i] = [next(values) for _ in groups[i].completions]
    return results
