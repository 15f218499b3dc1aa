"""README.md in every folder that may be shared: dataset cards and model cards."""

from pathlib import Path

from bezoar.io import atomic_write
from bezoar.report.dataset_card import dataset_card
from bezoar.report.model_card import model_card
from bezoar.report.run import Run
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
    return paths
