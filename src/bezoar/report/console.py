"""Scores, paired tests and leaderboards in the terminal: the same numbers as in the report."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bezoar.evals.leaderboard import Table, paired_tests, read_entries
from bezoar.evals.outcome import Outcome, remarks
from bezoar.evals.repeats import Spread
from bezoar.evals.stats import Difference, Score
from bezoar.flow.out import check_evaluation
from bezoar.io import as_written, write_json
from bezoar.report.decision import Decision, decide
from bezoar.report.formatting import ABSENT, count, failures, interval, listed, number, signed
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.repeats import lines
from bezoar.terminal import Console, plain

if TYPE_CHECKING:
    import rich.text
    from rich.table import Table as RichTable

FIGURES = ["n", "value", "95 % interval", "failed"]


def print_scores(run: Run, board: Scoreboard, console: Console) -> None:
    """Print the main scores, what they say, and which evaluations have not run."""
    if board.cells:
        console.print(_score_table(board))
    if board.seeds:
        _print_repeats(board, console)
    waiting = [stage.name for stage in run.of("evaluate") if not stage.done]
    later = [f"Not run yet: {listed(waiting)}."] if waiting else []
    headline = board.headline if run.of("train", "evaluate") else []
    _print_sentences([*headline, *later], console)
    print_decision(decide(run, board), console)


def print_decision(decision: Decision, console: Console) -> None:
    """Print the sentence, what keeps it from being taken at its word, and what to do next."""
    answers = [
        f"{a.question} {a.short[:1].upper()}{a.short[1:]}. {a.why}" for a in decision.answers
    ]
    steps = [f"Next: {step}" for step in decision.next_steps]
    _print_sentences([decision.sentence, *decision.warnings, *answers, *steps], console)


def _print_repeats(board: Scoreboard, console: Console) -> None:
    rows = [(f"{name}: {label}", *figures, said) for name, label, figures, said in lines(board)]
    title = f"Over seeds {listed([*map(str, board.seeds)])}"
    head = ["mean", "sd", "lowest", "highest", "what seeds say"]
    console.print(_figure_table(title, head, rows))


def print_outcome(outcome: Outcome, console: Console, title: str) -> None:
    """Print every score with n, interval and failures; the judge's card; and further facts."""
    card = (outcome.info.get("judge_card") or {}).get("scores") or []
    # A judge that was examined in this evaluation is printed below the scores it gave.
    judge_scores = [Score.from_dict(score) for score in card]
    for name, scores in ((title, outcome.scores), ("the judge", judge_scores)):
        if scores:
            rows = [(_name(score), *_figures(score)) for score in scores]
            console.print(_figure_table(name, FIGURES, rows))
    _print_sentences(remarks(outcome.info), console)


def compare_finished(folders: Sequence[Path], out: Path | None, console: Console) -> None:
    """Test the second finished evaluation against the first: print it, write `out`/tests.json."""
    if out:
        check_evaluation(out, folders)
    with as_written(folders[0]):
        tests, notes = paired_tests(*read_entries(folders))
    first, second = map(str, folders)
    if out:
        results = [{**asdict(test), "verdict": test.verdict} for test in tests]
        table = {"first": first, "second": second, "tests": results, "told": notes}
        write_json(out / "tests.json", table)
    print_tests(tests, notes, console, f"{second} less {first}, on the items of both")


def print_tests(tests: list[Difference], notes: list[str], console: Console, title: str) -> None:
    """Print paired differences, the second less the first, and what was not compared."""
    rows = [
        (
            test.name,
            count(test.n) + (f" ({test.num_unpaired} unpaired)" if test.num_unpaired else ""),
            f"{number(test.first)} → {number(test.second)}",
            f"{signed(test.difference)} {interval(test.low, test.high)}",
            f"{test.p:.2g}",
            test.verdict,
        )
        for test in tests
    ]
    head = ["n", "first → second", "difference", "p", "the second is"]
    console.print(_figure_table(title, head, rows))
    _print_sentences(notes, console)


def print_leaderboard(tables: list[Table], strengths: list[Score], console: Console) -> None:
    """Print a table per benchmark and condition, best first, and the ranking from win rates."""
    for table in tables:
        rows: list[tuple[str, ...]] = []
        for name, score in table.lines:
            spread = [_spread(table.spreads.get(name))] if table.spreads else []
            rows.append((name, *_figures(score), table.verdict(name) or "first", *spread))
        if rows:
            head = [*FIGURES, "against the first", *["over seeds"] * bool(table.spreads)]
            console.print(_figure_table(table.benchmark, head, rows))
            _print_sentences([f"  {table.apart}."] if table.apart else [], console)
    if strengths:
        title = "Bradley-Terry strength (log odds, mean 0) from the win rates"
        ranking = [(score.name, *_figures(score)) for score in strengths]
        console.print(_figure_table(title, FIGURES, ranking))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ABSENT
    return f"{number(spread.mean)}, sd {number(spread.sd)} ({len(spread.values)})"


def _print_sentences(sentences: Iterable[str], console: Console) -> None:
    for sentence in sentences:
        console.print(plain(sentence))


def _figures(score: Score) -> tuple[str, str, str, str]:
    # A reason stands in place of what is not there: the number, or the interval alone.
    if score.value is None:
        value, bounds = score.in_place or ABSENT, ABSENT
    else:
        value, bounds = number(score.value), interval(score.low, score.high) or score.in_place
    return count(score.n), value, bounds or ABSENT, failures(score.num_failed, score.n)


def _name(score: Score) -> str:
    named = not score.group or score.name.startswith(score.group)
    return score.name if named else f"{score.name} ({score.group})"


def _table(title: str) -> "RichTable":
    from rich.table import Table

    # Foreign text goes through `plain`, so that nothing in it is read as markup.
    table = Table(title=plain(title), title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.padding = False, (0, 2, 0, 0)
    return table


def _figure_table(title: str, head: list[str], rows: Sequence[tuple[str, ...]]) -> "RichTable":
    table = _table(title)
    table.add_column("")
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _score_table(board: Scoreboard) -> "RichTable":
    table = _table("Scores with 95 % intervals")
    table.add_column("benchmark")
    table.add_column("n", justify="right")
    for label in board.labels.values():
        table.add_column(plain(label), justify="right")
    for benchmark in board.main:
        # One size if all models answered the same items, else all of them in order.
        sizes = dict.fromkeys(count(score.n) for score in board.of(benchmark).values())
        leaders = board.leaders(benchmark)
        cells = [_cell(board, benchmark, model, leads=model in leaders) for model in board.labels]
        table.add_row(plain(benchmark), "/".join(sizes), *cells)
    return table


def _cell(board: Scoreboard, benchmark: str, model: str, *, leads: bool) -> "rich.text.Text":
    score = board.cells.get((benchmark, model))
    if score is None or score.value is None:
        failed = f"\n{count(score.num_failed)} failed" if score and score.num_failed else ""
        return plain(f"{score.in_place if score and score.reason else ABSENT}{failed}", "dim")
    text = plain(number(score.value), "bold green" if leads else "")
    bounds = interval(score.low, score.high) or score.in_place or "no interval"
    text.append(f"\n{bounds}", "not bold dim default")
    if score.num_failed:
        text.append(f"\n{failures(score.num_failed, score.n)} failed", "not bold yellow")
    return text
