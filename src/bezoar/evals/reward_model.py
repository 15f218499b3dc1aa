"""A reward model as a scorer of pairs."""

import math
from collections.abc import Sequence
from typing import Any

from bezoar.chat.templates import Template
from bezoar.chat.types import Comparison
from bezoar.model.completions import reward_completions
from bezoar.model.reward_weights import RewardWeights


def reward_margins(
    stack: Any,
    pairs: Sequence[Comparison],
    template: Template,
    goodness: RewardWeights | None = None,
) -> list[float | None]:
    """Score of the chosen minus score of the rejected answer of every pair, 0 where they are equal,
    None where one is too long.

    `stack` is a `model.stack.Stack` with a score head, whose outputs `goodness` makes one score.
    """
    goodness, names = goodness or RewardWeights(), stack.score_head.outputs
    found = reward_completions(
        stack,
        template,
        [pair.prompt for pair in pairs],
        [(pair.chosen, pair.rejected) for pair in pairs],
    )
    margins: list[float | None] = []
    for pair, (chosen, rejected) in zip(pairs, found, strict=True):
        margin = (
            0.0
            if pair.chosen == pair.rejected
            else goodness.score(names, chosen) - goodness.score(names, rejected)
        )
        margins.append(None if math.isnan(chosen[0]) else margin)
    return margins
