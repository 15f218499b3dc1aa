"""README.md in every folder that may be shared: dataset cards and model cards."""

from pathlib import Path

from bezoar.errors import RecipeError
from bezoar.io import atomic_write
from bezoar.report.dataset_card import dataset_card
from bezoar.report.load_scores import load_scoreboard
from bezoar.report.model_card import model_card
from bezoar.report.run import Run, load_run
from bezoar.report.scoreboard import Scoreboard


def write_cards(run: Run, board: Scoreboard) -> list[Path]:
    """Write the cards of all finished schemes, filters and trainings; returns their paths."""
    paths = []
    for stage in run.of("scheme", "filter", "train"):
        # A card for rows or weights that are not there yet would be wrong as soon as they are.
        if stage.folder is not None:
            is_model = stage.category == "train"
            card = model_card(run, stage, board) if is_model else dataset_card(run, stage)
            paths.append(stage.folder / "README.md")
            atomic_write(paths[-1], card)
            for weights in filter(None, (stage.path("adapter"), stage.path("model"))):
                # this folder may be shared by itself
                atomic_write(weights / "README.md", model_card(run, stage, board, folder="."))
    return paths


def exported_card(run_dir: Path, name: str, *, merged: bool) -> str:
    """README.md of the training stage `name` as one folder for other tools."""
    run = load_run(run_dir)
    stage = run.stage(name)
    if stage is None:
        raise RecipeError(f"{run_dir}: no stage {name}; run the recipe first.")
    board = load_scoreboard(run)
    return model_card(run, stage, board, folder=".", merged=merged, exported=True)
