"""Prompts with their answers, and groups of them by size. Imports no torch."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.model.fast_paths import usable

LEAST_SHARED = 64
"""Tokens that prompts have in common before it pays to read them once."""
_MOST = 0.75


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


def alike(groups: Sequence[PromptGroup], budget: int | None = None) -> list[list[int]]:
    """Indices of groups in order; those side by side whose prompts are equal or begin alike are
    together, at most `budget` tokens when they are `joined`."""
    if not usable("shared prompts"):
        return [[index] for index in range(len(groups))]
    runs: list[list[int]] = []
    common = size = 0
    for index, group in enumerate(groups):
        if runs:
            run, first = runs[-1], groups[runs[-1][0]]
            single = len(first.completions) == len(group.completions) == 1
            same = common_prefix(first.prompt[:common], group.prompt) if single else 0
            least = min(max(LEAST_SHARED, _MOST * common), max(common, len(group.prompt)))
            # what the run has no longer in common is read by each
            grown = size + (len(run) - 1) * (common - same) + group.num_input_tokens - same
            if single and same >= least and (budget is None or grown <= budget):
                run.append(index)
                common, size = same, grown
                continue
        runs.append([index])
        common, size = len(group.prompt), group.num_input_tokens
    return runs


def joined(groups: Sequence[PromptGroup]) -> PromptGroup:
    """Groups of one answer as one: its prompt is what theirs begin with, and the rest of each is
    part of its answer and not trained. The same tokens are trained from the same contexts."""
    if len(groups) == 1:
        return groups[0]
    common = min(common_prefix(groups[0].prompt, group.prompt) for group in groups)
    completions = []
    for group in groups:
        rest, [answer] = group.prompt[common:], group.completions
        trained = [False] * len(rest) + answer.trained
        completions.append(Completion(rest + answer.tokens, trained))
    return PromptGroup(groups[0].prompt[:common], completions)


def num_read(groups: Sequence[PromptGroup]) -> int:
    """Tokens that the network reads when these groups are packed in this order."""
    return sum(joined([groups[i] for i in run]).num_input_tokens for run in alike(groups))


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


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


def micro_batches(groups: Sequence[PromptGroup], budget: int) -> list[list[int]]:
    """Indices of groups that are read at once, at most `budget` tokens, by `best_fit`; what is read
    as one stays together."""
    # sizes without padding: a packed row holds just the tokens of its groups
    runs = alike(groups, budget)
    sizes = [joined([groups[i] for i in run]).num_input_tokens for run in runs]
    return [[i for run in batch for i in runs[run]] for batch in best_fit(sizes, budget)]
