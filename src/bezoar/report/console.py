"""The score table in the terminal: the same numbers as in the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bezoar.evals.leaderboard import Table
from bezoar.evals.outcome import Outcome, told
from bezoar.evals.stats import Difference, Score
from bezoar.report.formatting import ABSENT, count, failures, interval, listed, number, signed
from bezoar.report.run import load_run
from bezoar.report.scores import Scoreboard, load_scoreboard
from bezoar.terminal import plain


def print_scores(run_dir: Path, console: Any) -> None:
    """Print what the scores say and the main ones; a run without scores says which evaluations have
    not run."""
    run = load_run(run_dir)
    board = load_scoreboard(run)
    if board.cells:
        console.print(_table(board))
    waiting = [s.name for s in run.of("evaluate") if not s.done]
    told = [*board.headline, *([f"Not run yet: {listed(waiting)}."] if waiting else [])]
    for sentence in told:
        console.print(plain(sentence))


def print_outcome(outcome: Outcome, console: Any, title: str) -> None:
    """Print every score with n, interval and failures; the judge's card; and what the facts say
    beside them."""
    card = (outcome.info.get("judge_card") or {}).get("scores") or []
    for name, scores in (
        (title, outcome.scores),
        ("the judge", [Score.from_dict(s) for s in card]),
    ):
        if scores:
            console.print(
                _lines(
                    name,
                    ["n", "value", "95 % interval", "failed"],
                    [(_name(s), *_figures(s)) for s in scores],
                )
            )
    for sentence in told(outcome.info):
        console.print(plain(sentence))


def print_tests(tests: list[Difference], told: list[str], console: Any, title: str) -> None:
    """Print paired differences, the second less the first, and what was not compared."""
    rows = [
        (
            d.name,
            count(d.n) + (f" ({d.num_unpaired} unpaired)" if d.num_unpaired else ""),
            f"{number(d.first)} → {number(d.second)}",
            f"{signed(d.difference)} {interval(d.low, d.high)}",
            f"{d.p:.2g}",
            d.verdict,
        )
        for d in tests
    ]
    console.print(_lines(title, ["n", "first → second", "difference", "p", "the second is"], rows))
    for sentence in told:
        console.print(plain(sentence))


def print_leaderboard(tables: list[Table], strengths: list[Score], console: Any) -> None:
    """Print a table a benchmark and condition, best first, and the ranking from win rates."""
    for table in filter(lambda t: t.lines, tables):
        rows = [
            (name, *_figures(score), table.verdict(name) or "first") for name, score in table.lines
        ]
        console.print(
            _lines(
                table.benchmark,
                ["n", "value", "95 % interval", "failed", "against the first"],
                rows,
            )
        )
        if table.apart:
            console.print(plain(f"  {table.apart}."))
    if strengths:
        rows = [(s.name, *_figures(s)) for s in strengths]
        console.print(
            _lines(
                "Bradley-Terry strength (log odds, mean 0) from the win rates",
                ["n", "value", "95 % interval", "failed"],
                rows,
            )
        )


def _figures(score: Score) -> tuple[str, ...]:
    return (
        count(score.n),
        number(score.value),
        interval(score.low, score.high) or ABSENT,
        failures(score.num_failed, score.n),
    )


def _name(score: Score) -> str:
    return (
        f"{score.name} ({score.group})"
        if score.group and not score.name.startswith(score.group)
        else score.name
    )


def _lines(title: str, head: list[str], rows: Sequence[tuple[str, ...]]) -> Any:
    from rich.table import Table

    table = Table(
        title=plain(title),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", overflow="fold", min_width=16)
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _table(board: Scoreboard) -> Any:
    from rich.table import Table

    table = Table(
        title="Scores with 95 % intervals",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("benchmark", overflow="fold")
    table.add_column("n", justify="right")
    for label in board.labels.values():
        table.add_column(plain(label), justify="right", overflow="fold")
    for benchmark in board.main:
        scores = board.of(benchmark)
        verdict = board.verdicts.get(benchmark)
        leading = verdict.tied if verdict and not verdict.none else ()
        sizes = dict.fromkeys(count(score.n) for score in scores.values())
        cells = [
            _cell(board.cells.get((benchmark, model)), leads=model in leading)
            for model in board.labels
        ]
        table.add_row(plain(benchmark), "/".join(sizes), *cells)
    return table


def _cell(score: Score | None, *, leads: bool) -> Any:
    if score is None or score.value is None:
        return plain(
            f"{ABSENT}\n{count(score.num_failed)} failed" if score and score.num_failed else ABSENT,
            "dim",
        )
    text = plain(number(score.value), "bold green" if leads else "")
    text.append(f"\n{interval(score.low, score.high) or 'no interval'}", "not bold dim default")
    if score.num_failed:
        text.append(f"\n{failures(score.num_failed, score.n)} failed", "not bold yellow")
    return text
