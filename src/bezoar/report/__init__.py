"""Reads a run directory and nothing else: the report, the cards, and the score table of the
terminal."""

from pathlib import Path
from typing import Any

from bezoar.io import as_written
from bezoar.terminal import plain


def finish(run_dir: Path, console: Any, *, changed: bool = True) -> None:
    """Write the report and the cards where something changed or the report is absent, and print the
    scores."""
    from bezoar.report.cards import write_cards
    from bezoar.report.console import print_scores
    from bezoar.report.html import write_report

    path = run_dir / "report.html"
    with as_written(run_dir):
        if changed or not path.exists():
            write_cards(run_dir)
            write_report(run_dir)
        print_scores(run_dir, console)
    console.print(plain(f"report: {path}"))
