"""Log-probabilities of answers under a stack, without gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar.model.chunked_logprobs import logprobs_and_greedy
from bezoar.model.packed import PackedBatch, pack
from bezoar.model.prompt_group import PromptGroup, best_fit
from bezoar.model.stack import Stack


@dataclass(frozen=True)
class Scored:
    """The log-probabilities (nats, float32, on the CPU) of a branch's trained tokens, and whether
    greedy decoding writes them."""

    logprobs: Tensor
    greedy: bool

    @property
    def total(self) -> float:
        """The log-probability of the whole answer."""
        return float(self.logprobs.double().sum())


@torch.no_grad()
def score(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = 4096
) -> list[list[Scored]]:
    """What the stack makes of every branch of every tree, in their order; at most `max_tokens`
    tokens are read at once."""
    results: list[list[Scored]] = [[] for _ in groups]
    for micro_batch in best_fit([group.num_input_tokens for group in groups], max_tokens):
        batch = pack([groups[i] for i in micro_batch]).to(stack.device)
        for i, scored in zip(
            micro_batch, _by_tree(stack, batch, [groups[i] for i in micro_batch]), strict=True
        ):
            results[i] = scored
    return results


def _by_tree(stack: Stack, batch: PackedBatch, groups: list[PromptGroup]) -> list[list[Scored]]:
    hidden = stack.hidden(batch)
    values, greedy = (x.cpu() for x in logprobs_and_greedy(hidden, stack.head_weight, batch.target))
    sizes = [completion.num_trained for group in groups for completion in group.completions]
    scored = [
        Scored(v, bool(g.all()))
        for v, g in zip(torch.split(values, sizes), torch.split(greedy, sizes), strict=True)
    ]
    ends = iter(scored)
    return [[next(ends) for _ in group.completions] for group in groups]
