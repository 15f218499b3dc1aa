"""MT-Bench by category."""

from bezoar.evals.stats import Score
from bezoar.report.components import folded, table
from bezoar.report.formatting import ABSENT, count, failures, interval, number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.scoreboard import Scoreboard

NAME = "mt_bench"


def categories(board: Scoreboard) -> Markup | None:
    """A folded table, a line a category and a turn; None if nothing was rated."""
    parts = [board.parts.get((NAME, model), {}) for model in board.labels]
    if not any(parts):
        return None
    # Models may have been rated on different categories; the order of first sight is kept.
    names = dict.fromkeys(name for scores in parts for name in scores)
    lines = [_line(name, [scores.get(name) for scores in parts]) for name in names]
    for name in board.benchmarks:
        if name.startswith(f"{NAME}/"):  # the scores of single turns
            scores = [board.score(name, model) for model in board.labels]
            lines.append(_line(name.removeprefix(f"{NAME}/"), scores))
    return folded("MT-Bench by category", table(["Category", *board.labels.values()], lines))


def _line(name: str, scores: list[Score | None]) -> list[Child]:
    """A line of the table; n stands at its head if it is the same for all."""
    sizes = {score.n for score in scores if score}
    size = h("small", f"{count(next(iter(sizes)))} ratings") if len(sizes) == 1 else None
    return [[name, size], *(_cell(score, with_size=len(sizes) > 1) for score in scores)]


def _cell(score: Score | None, *, with_size: bool) -> Child:
    if score is None or score.value is None:
        return ABSENT
    notes = [interval(score.low, score.high)]
    notes += [f"{count(score.n)} ratings"] if with_size else []
    notes += [f"{failures(score.num_failed, score.n)} failed"] if score.num_failed else []
    return [number(score.value), [h("small", note) for note in notes if note]]
