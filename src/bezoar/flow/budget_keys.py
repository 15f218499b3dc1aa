"""The recipe key `budgets`, checked against the rest of the recipe."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from bezoar.cost import dollars, has_price
from bezoar.errors import RecipeError
from bezoar.flow.references import refs
from bezoar.flow.yaml_document import KeyPath
from bezoar.llm.endpoint import Endpoint
from bezoar.stage import Stage


def check_budgets(
    budgets: Mapping[str, float],
    budget_usd: float | None,
    stages: Mapping[str, Stage],
    backends: Mapping[str, Any],
    at: Callable[[KeyPath], str],
) -> None:
    """RecipeError unless all that is bounded has prices, and no more is kept than there is.

    `at` gives the place of a key in the recipe file.
    """
    priced = {name for name, backend in backends.items() if has_price(backend)}
    if budget_usd is not None and not priced:
        what = "no language model of this recipe has prices, and nothing would be bounded"
        advice = "write `prices` beside a model under `backends`, or remove the key"
        raise RecipeError(f"{at(('budget_usd',))}: {what}; {advice}.")
    for name in budgets:
        asked = [ref.name for ref in refs(stages[name])] if name in stages else []
        if priced.isdisjoint(asked):
            what = f"no stage {name!r} asks a language model that has prices"
            raise RecipeError(f"{at(('budgets', name))}: {what}; name one that does.")
    unpriced = [
        name
        for name, backend in backends.items()
        if isinstance(backend, Endpoint) and backend.prices is None
    ]
    if unpriced and (budgets or budget_usd is not None):
        what = f"the budget cannot bound {' and '.join(unpriced)} without `prices`"
        raise RecipeError(
            f"{at(('backends', unpriced[0]))}: {what}; write them, 0 for what is free."
        )
    total_usd = math.fsum(budgets.values())
    if budget_usd is not None and total_usd > budget_usd + 1e-9:
        what = f"{dollars(total_usd)} USD for stages, of {dollars(budget_usd)} in budget_usd"
        raise RecipeError(f"{at(('budgets',))}: {what}; raise budget_usd, or lower these.")
