"""README.md in every folder that may be shared: a dataset card a generated set, a model card a
trained model."""

from pathlib import Path

from bezoar.io import atomic_write
from bezoar.report.dataset_card import dataset_card
from bezoar.report.model_card import model_card
from bezoar.report.run import load_run
from bezoar.report.scores import load_scoreboard


def write_cards(run_dir: Path) -> list[Path]:
    """Write the cards of all finished schemes, filters and training stages; returns their paths."""
    run = load_run(run_dir)
    board = load_scoreboard(run)
    paths = []
    for stage in run.of("scheme", "filter", "train"):
        if stage.folder is not None:
            path = stage.folder / "README.md"
            atomic_write(
                path,
                (
                    model_card(run, stage, board)
                    if stage.category == "train"
                    else dataset_card(run, stage)
                ),
            )
            paths.append(path)
    return paths
