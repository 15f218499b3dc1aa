"""Prompts with their answers as trees, and the grouping of trees by size. Imports no torch.

A trained token is stored with the index of the position that predicts it (see flat.py): the token
before it, which for the first token of a branch is the trunk's last. The last token of a branch
predicts nothing and is not fed.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.model.fast_paths import usable


@dataclass(frozen=True)
class Completion:
    """One answer: its tokens, and which of them are trained or scored."""

    tokens: list[int]
    trained: list[bool]

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return sum(self.trained)


@dataclass(frozen=True)
class PromptGroup:
    """A prompt (the trunk, never trained) and one or more answers to it (the branches). The trunk
    has at least one token.

    `labels` are numbers of the row that its objective reads: labels, strengths; nan where unknown.
    """

    prompt: list[int]
    completions: list[Completion]
    labels: tuple[float, ...] = ()

    @property
    def num_input_tokens(self) -> int:
        """Tokens that the network reads for this tree."""
        return len(self.prompt) + sum(len(b.tokens) - 1 for b in self.completions if b.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the trunk with the longest branch."""
        return len(self.prompt) + max((len(b.tokens) for b in self.completions), default=0)


def prompt_group(
    prompt: Sequence[int], answers: Sequence[Sequence[int]], labels: tuple[float, ...] = ()
) -> PromptGroup:
    """One prompt and its answers, every token of them trained or scored."""
    return PromptGroup(
        list(prompt), [Completion(list(tokens), [True] * len(tokens)) for tokens in answers], labels
    )


def answer(prompt: Sequence[int], tokens: Sequence[int]) -> PromptGroup:
    """One prompt, one answer, every token of the answer trained or scored."""
    return prompt_group(prompt, [tokens])


def best_fit(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of items grouped so that each group's sizes sum to at most `budget`: best fit,
    longest first.

    An item above the budget gets a group of its own, as does every item where packing is not
    usable. Groups and the items in them are in the order of the items.
    """
    budget = budget if usable("packing") else 0
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, group), in order
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect_left(rooms, (sizes[item], 0))
        if at == len(rooms):
            groups.append([])
            room, group = budget, len(groups) - 1
        else:
            room, group = rooms.pop(at)
        groups[group].append(item)
        insort(rooms, (room - sizes[item], group))
    return sorted(sorted(group) for group in groups)
