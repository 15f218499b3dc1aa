"""Weights of a reward model's outputs, searched on pairs whose better answer is known.

P pairs, K outputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Comparison
from bezoar.errors import DataError, RecipeError
from bezoar.model.completions import reward_completions, reward_outputs
from bezoar.model.spec import GOODNESS, RewardWeights
from bezoar.progress import Progress
from bezoar.references import RowsRef

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

STEP, MOST_ROUNDS = 0.05, 20


@dataclass(frozen=True)
class SearchedWeights(RewardWeights):
    """One score from a reward model's outputs, whose weights may be searched on pairs.

    Ours, as HelpSteer2 (arXiv 2406.08673) only says that a search found its own: one weight after
    the other, from -1 to 1 in steps of 0.05, from the default weights on until no change raises
    the share of pairs whose chosen answer scores higher; of equal shares the lower log-loss.
    """

    rows: RowsRef | None = None
    """Stage of pairs on which the weights are searched: of validation, not of what is evaluated."""

    def __post_init__(self) -> None:
        if self.rows and self.weights:
            raise ValueError("weights has no effect where rows says where to search; remove one")

    def searched(
        self, stack: "Stack", template: Template, pairs: Sequence[AnyRow], progress: Progress
    ) -> "SearchedWeights":
        """These with the weights found; RecipeError for a model of one output, DataError without a
        pair that it can read."""
        outputs = reward_outputs(stack, stack.spec.path)
        if len(outputs) < 2:
            only = f"the reward model has the one output {outputs[0]}"
            raise RecipeError(f"goodness.rows: {only}, so there is nothing to weigh; remove it.")
        known = [pair for pair in pairs if isinstance(pair, Comparison)]
        answers = [(pair.chosen, pair.rejected) for pair in known]
        scored = reward_completions(stack, template, [pair.prompt for pair in known], answers)
        both = [values for values in scored if not math.isnan(values[0][0])]
        if not both:
            raise DataError(f"{self.rows}: no pair fits the reward model; name a stage of pairs.")
        weights, accuracy = search_weights(outputs, [(one, two) for one, two in both])
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        more = f"; {len(pairs) - len(both)} did not fit" if len(pairs) > len(both) else ""
        told = f"weights {shown}: right on {accuracy:.3f} of {len(both)} pairs{more}"
        progress.say(f"  {progress.stage}: {told}")
        return replace(self, weights=weights, rows=None)


def search_weights(
    outputs: Sequence[str], pairs: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> tuple[dict[str, float], float]:
    """The weights by output, and the share of pairs (chosen, rejected) that they put right."""
    import numpy as np

    gaps = np.array([np.subtract(chosen, rejected) for chosen, rejected in pairs])  # [P, K]

    def value(weights: Any) -> tuple[float, float]:
        margins = gaps @ weights
        return float((margins > 0).mean()), -float(np.logaddexp(0, -margins).mean())

    default = {name: GOODNESS.get(name, 0.0) for name in outputs}
    weights = np.array(list(default.values()) if any(default.values()) else [1.0] * len(outputs))
    best, steps = value(weights), round(1 / STEP)
    for _ in range(MOST_ROUNDS):
        before = best
        for k in range(len(outputs)):
            for step in range(-steps, steps + 1):
                trial = weights.copy()
                trial[k] = round(step * STEP, 2)
                if (found := value(trial)) > best:
                    best, weights = found, trial
        if best == before:
            break
    return dict(zip(outputs, weights.tolist(), strict=True)), best[0]
