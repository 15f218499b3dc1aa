"""The report, the cards and the score table, all read from a run directory and nothing else."""

from pathlib import Path

from bezoar.io import as_written
from bezoar.terminal import Console, plain


def finish(run_dir: Path, console: Console, *, changed: bool = True) -> None:
    """Write report and cards if something changed or the report is absent or of other settings;
    print the scores."""
    from bezoar.report.cards import write_cards
    from bezoar.report.console import print_scores
    from bezoar.report.html import write_report
    from bezoar.report.load_scores import load_scoreboard
    from bezoar.report.run import load_run

    path = run_dir / "report.html"
    with as_written(run_dir):
        run = load_run(run_dir)
        board = load_scoreboard(run)
        if changed or not path.exists() or _since(path) < _since(run_dir / "resolved.json"):
            write_cards(run, board)
            write_report(run, board)
        print_scores(run, board, console)
    console.print(plain(f"report: {path}"))


def _since(path: Path) -> int:
    return path.stat().st_mtime_ns
