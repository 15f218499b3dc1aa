"""Two finished evaluations, tested against each other: printed and, where a folder is named,
written down."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bezoar.evals.leaderboard import paired_tests, read_entries
from bezoar.flow.out import check_evaluation
from bezoar.io import as_written, write_json
from bezoar.report.console import print_tests


def compare_finished(folders: Sequence[Path], out: Path | None, console: Any) -> None:
    """Print the paired tests of the second folder's scores less the first's, and write them to
    `out`/tests.json."""
    if out:
        check_evaluation(out, folders)
    with as_written(folders[0]):
        tests, told = paired_tests(*read_entries(folders))
    first, second = map(str, folders)
    if out:
        write_json(
            out / "tests.json",
            {
                "first": first,
                "second": second,
                "tests": [{**asdict(t), "verdict": t.verdict} for t in tests],
                "told": told,
            },
        )
    print_tests(tests, told, console, f"{second} less {first}, on the items of both")
