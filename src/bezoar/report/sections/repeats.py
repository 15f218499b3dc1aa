"""Scores over seeds: mean and spread, and the claims that not every seed carries."""

from bezoar.report.components import section, table
from bezoar.report.formatting import ABSENT, number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.repeats import claims, spread, warnings
from bezoar.report.scoreboard import Scoreboard

HEAD = ("Benchmark", "Model", "What seeds say", "Mean", "Standard deviation", "Lowest", "Highest")


def repeats(board: Scoreboard) -> Markup | None:
    """A line for each main benchmark and model that was trained anew; None without scores."""
    rows: list[list[Child]] = [
        [benchmark, label, said, *figures] for benchmark, label, figures, said in lines(board)
    ]
    if not rows:
        return None
    first, seeds = next(iter(board.seeds)), ", ".join(map(str, board.seeds))
    intro = (
        f"Training and evaluation with {len(board.seeds)} seeds ({seeds}); rows were made once."
        f" The other sections show seed {first}."
    )
    told = [h("p", warning, cls="warn") for warning in warnings(board)]
    return section("seeds", "Over seeds", intro, told, table(HEAD, rows, words=3))


def lines(board: Scoreboard) -> list[tuple[str, str, list[str], str]]:
    """(benchmark, model, mean, deviation and bounds, what the seeds say) of the main benchmarks."""
    rows = []
    for benchmark in board.main:
        said = {claim.model: str(claim) for claim in claims(board, benchmark)}
        for model, label in board.labels.items():
            found = spread(board, benchmark, model)
            if found is None:
                continue
            figures = [*map(number, (found.mean, found.sd, found.lowest, found.highest))]
            missing = len(board.seeds) - len(found.values)
            note = f"; {missing} not measured" if missing else ""
            rows.append((benchmark, label, figures, said.get(label, ABSENT) + note))
    return rows
