"""What a model's score head gives to answers, read at the token that ends each."""

from collections.abc import Sequence

import torch

from bezoar.errors import DataError
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup, best_fit
from bezoar.model.stack import Stack


def score_group(
    prompt: Sequence[int], answers: Sequence[Sequence[int]], labels: tuple[float, ...] = ()
) -> PromptGroup:
    """A prompt and answers with their end tokens, read where a token after the end would be
    predicted."""
    completions = [
        Completion([*answer, answer[-1]], [False] * len(answer) + [True]) for answer in answers
    ]
    return PromptGroup(list(prompt), completions, labels)


@torch.no_grad()
def rewards(
    stack: Stack, groups: Sequence[PromptGroup], *, max_tokens: int = 4096
) -> list[list[list[float]]]:
    """The K outputs of the head for every answer of every tree of `score_group`; DataError when the
    model has no head."""
    if stack.score_head is None:
        raise DataError(
            f"{stack.spec.path}: the model has no score head; name one that was trained as a reward"
            " model."
        )
    stack.net.eval()
    results: list[list[list[float]]] = [[] for _ in groups]
    for micro_batch in best_fit([group.num_input_tokens for group in groups], max_tokens):
        batch = pack([groups[i] for i in micro_batch]).to(stack.device)
        found = iter(stack.score_head(stack.hidden(batch)).tolist())
        for i in micro_batch:
            results[i] = [next(found) for _ in groups[i].completions]
    return results
