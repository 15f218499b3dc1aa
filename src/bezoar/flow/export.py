"""A trained stack as one ordinary model folder or one adapter, and the measured cost of a merge."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.flow.chat import open_model
from bezoar.flow.out import check_new
from bezoar.flow.recipe import Recipe, trained
from bezoar.flow.rundir import RunDir
from bezoar.io import atomic_dir, atomic_write
from bezoar.references import unknown
from bezoar.terminal import plain
from bezoar.train.objective import conversations

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

MAX_MEAN_KL = 0.05
"""Nats a token by which a checked merge may differ from its stack; ours."""
NUM_ROWS = 16


def export(
    recipe: Recipe,
    run: RunDir,
    name: str,
    out: Path,
    *,
    adapter: bool,
    check: bool,
    card: Callable[[], str],
    console: Any,
) -> None:
    """Write the model `name` to `out` for other tools, with its template, end token and `card`: one
    model folder, or with `adapter` all its adapters as one; with `check` a merge is compared with
    its stack on training rows.

    RecipeError if `out` exists or there is no row to compare on. TrainingError, with the figures or
    the first difference, if the stack and the merge, or training and transformers differ; nothing
    is written then.
    """
    # refused before the model is loaded, which takes minutes
    check_new(out)
    trained_on = _rows_of(recipe, name)
    if run.is_earlier(name):
        what = f"{name} is the output of earlier settings"
        raise RecipeError(f"{run.path}: {what}; run the recipe first, or put its settings back.")
    stack = open_model(recipe, run, name)

    def add(work: Path) -> None:
        from bezoar.model.chat_files import save_chat_files

        try:
            save_chat_files(stack, recipe.template, work)
        except (DataError, TrainingError) as error:
            raise TrainingError(f"{out}: not written, for {error}") from None
        atomic_write(work / "README.md", card())

    if adapter:
        if not stack.adapters:
            fault = f"{name} trained all weights and has no adapter"
            raise RecipeError(f"{out}: {fault}; export it without --adapter.")
        with atomic_dir(out) as work:
            stack.save_adapter(work)
            add(work)
        summary = "all its adapters as one"
    else:
        # rows that it was trained on: there its adapters matter, so a lossy merge shows
        rows = _some_rows(recipe, run, trained_on, stack) if check else []
        if check and not rows:
            advice = "see the stage's rows, or give --no-check"
            raise RecipeError(f"{out}: there is no row to compare the merge with; {advice}.")
        from bezoar.model.merge import merge

        difference = merge(stack, out, rows=rows, max_mean_kl=MAX_MEAN_KL, add=add)
        result = f"against the stack: {difference}" if difference else "not compared with the stack"
        summary = f"merged; {result}"
    console.print(plain(f"{out}: {summary}; transformers writes chats as training did"))


def _some_rows(recipe: Recipe, run: RunDir, name: str, stack: "Stack") -> list[list[int]]:
    chats = [conversations(row)[0] for row in run.items(name)[:NUM_ROWS]]
    return [recipe.template.render(messages, stack.tokenizer).tokens for messages in chats]


def _rows_of(recipe: Recipe, name: str) -> str:
    if name in recipe.models:
        what = f"{name} is a base model and needs no export"
        raise RecipeError(f"{recipe.path}: {what}; name a training stage.")
    names = [name for name, stage in recipe.stages.items() if stage.gives == "model"]
    if name not in names:
        raise RecipeError(f"{recipe.path}: {unknown(name, 'training stage', names)}")
    return trained(recipe, name).rows
