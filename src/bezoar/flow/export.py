"""A trained stack as one ordinary model folder, and the measured cost of merging it."""

from pathlib import Path
from typing import Any

from bezoar.chat.types import as_chats
from bezoar.errors import RecipeError
from bezoar.flow.chat import open_model
from bezoar.flow.out import check_new
from bezoar.flow.recipe import Recipe, trained
from bezoar.flow.rundir import RunDir
from bezoar.references import unknown
from bezoar.terminal import plain

MAX_MEAN_KL = 0.05
"""Nats a token by which a checked merge may differ from its stack; ours."""
NUM_ROWS = 16


def export(recipe: Recipe, run: RunDir, name: str, out: Path, *, check: bool, console: Any) -> None:
    """Write the model `name` to `out`; with `check` it is compared with its stack on training rows.

    RecipeError if `out` exists or there is no row to compare on. TrainingError, with the figures,
    if the two differ too much; nothing is written then.
    """
    # refused before the model is loaded, which takes minutes
    check_new(out)
    trained_on = _rows_of(recipe, name)
    stack = open_model(recipe, run, name)
    # rows that it was trained on: there its adapters matter, so a lossy merge shows
    items = as_chats(run.items(trained_on))[:NUM_ROWS] if check else []
    if check and not items:
        advice = "see the stage's rows, or give --no-check"
        raise RecipeError(f"{out}: there is no row to compare the merge with; {advice}.")
    rows = [recipe.template.render(item.messages, stack.tokenizer).tokens for item in items]
    from bezoar.model.merge import merge

    difference = merge(stack, out, rows=rows, max_mean_kl=MAX_MEAN_KL)
    result = f"against the stack: {difference}" if difference else "not compared with the stack"
    console.print(plain(f"{out}: merged; {result}"))


def _rows_of(recipe: Recipe, name: str) -> str:
    if name in recipe.models:
        what = f"{name} is a base model and needs no export"
        raise RecipeError(f"{recipe.path}: {what}; name a training stage.")
    names = [name for name, stage in recipe.stages.items() if stage.gives == "model"]
    if name not in names:
        raise RecipeError(f"{recipe.path}: {unknown(name, 'training stage', names)}")
    return trained(recipe.stages[name]).rows
