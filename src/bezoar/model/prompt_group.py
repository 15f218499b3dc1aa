"""Prompts with their answers, and groups of them by size. Imports no torch."""

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
    """A prompt of at least one token, which is never trained, and one or more answers to it.

    `labels` are numbers of the row that its objective reads; nan where unknown.
    """

    prompt: list[int]
    completions: list[Completion]
    labels: tuple[float, ...] = ()

    @property
    def num_input_tokens(self) -> int:
        """Tokens that the network reads: all but the last of each answer."""
        return len(self.prompt) + sum(len(c.tokens) - 1 for c in self.completions if c.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longest answer."""
        return len(self.prompt) + max((len(c.tokens) for c in self.completions), default=0)


def prompt_group(
    prompt: Sequence[int], answers: Sequence[Sequence[int]], labels: tuple[float, ...] = ()
) -> PromptGroup:
    """One prompt and its answers, all tokens of which are trained or scored."""
    completions = [Completion(list(tokens), [True] * len(tokens)) for tokens in answers]
    return PromptGroup(list(prompt), completions, labels)


def answer(prompt: Sequence[int], tokens: Sequence[int]) -> PromptGroup:
    """One prompt and one answer, all tokens of which are trained or scored."""
    return prompt_group(prompt, [tokens])


def score_group(
    prompt: Sequence[int], answers: Sequence[Sequence[int]], labels: tuple[float, ...] = ()
) -> PromptGroup:
    """A prompt and answers with their end tokens, for a score head."""
    # The head reads the state of the end token. A state is read where it predicts a trained token,
    # so one token, which is never fed, follows the end.
    completions = [
        Completion([*answer, answer[-1]], [False] * len(answer) + [True]) for answer in answers
    ]
    return PromptGroup(list(prompt), completions, labels)


def best_fit(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that sizes sum to at most `budget`: best fit, longest first.

    An item above the budget gets its own group, as does every item if packing is not usable. Groups
    and the items in them are in the order of the items.
    """
    budget = budget if usable("packing") else 0
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, group), in order
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        best = bisect_left(rooms, (sizes[item], 0))
        if best == len(rooms):
            groups.append([])
            room, group = budget, len(groups) - 1
        else:
            room, group = rooms.pop(best)
        groups[group].append(item)
        insort(rooms, (room - sizes[item], group))
    return sorted(sorted(group) for group in groups)
