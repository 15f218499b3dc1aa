"""A trained stack as one ordinary model folder, and the measured cost of merging it."""

from pathlib import Path
from typing import Any

from bezoar.chat.types import as_chats
from bezoar.errors import RecipeError, TrainingError
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.flow.talk import open_model

MAX_MEAN_KL = 0.05
"""Nats a token by which a checked merge may differ from its stack; ours."""
NUM_ROWS = 16


def export(recipe: Recipe, run: RunDir, name: str, out: Path, *, console: Any) -> None:
    """Write the model `name` to `out`, compared with its stack on rows that it was trained on.

    RecipeError when `out` is there already. TrainingError, with the figures, when the two differ too much; the folder stays.
    """
    from bezoar.model.merge import merge

    if out.exists():
        raise RecipeError(f"{out}: the folder is there already; name another with --out.")
    stack = open_model(recipe, run, name)
    items = as_chats(run.items(_rows_of(recipe, name)))[:NUM_ROWS]
    rows = [recipe.template.render(item.messages, stack.tokenizer).tokens for item in items]
    found = merge(stack, out, rows=rows)
    if found is None:
        raise TrainingError(f"{out}: there was no row to compare the merge with; see the stage's rows.")
    figures = f"mean KL {found.mean_kl:.2e} nats, largest {found.max_kl:.2e}, same top token {found.same_top:.2%}, {found.positions} positions"
    if found.mean_kl > MAX_MEAN_KL:
        raise TrainingError(
            f"{out}: the merge differs from the stack ({figures}), more than {MAX_MEAN_KL} nats on average; serve the adapters instead."
        )
    console.print(f"{out}: merged; against the stack: {figures}", highlight=False)


def _rows_of(recipe: Recipe, name: str) -> str:
    if name in recipe.models:
        raise RecipeError(f"{recipe.path}: {name} is a base model and needs no export; name a training stage.")
    return str(recipe.stages[name].rows)
