"""The fast tests of every promise, area by area, and the long run of the property-based ones."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hostile.command import Row

ROOT = Path(__file__).parents[2]
SUITES = {
    "refusals, passing failures, keys, many in flight, the journal, budgets, odd replies": [
        "llm/test_faults.py",
        "llm/test_budget.py",
        "llm/test_journal.py",
        "flow/test_unfinished.py",
    ],
    "weights that are missing, unexpected or pickled; damaged models, adapters and checkpoints": [
        "model/test_damaged.py",
        "model/test_odd_folders.py",
        "train/test_checkpoint.py",
    ],
    "SIGINT, SIGTERM and SIGHUP are told at once, and what is in flight is kept": [
        "flow/test_stopped.py",
        "llm/test_stop.py",
    ],
    "nothing that others wrote steers a terminal": ["test_terminal.py"],
    "verdicts and ratings are read from the judge's own words, in linear time": [
        "judge/test_verdict.py",
        "judge/test_own_words.py",
        "judge/test_odd_replies.py",
        "judge/test_readings.py",
        "evals/test_grading.py",
    ],
    "records before a judge are sealed, and the card counts what judges fall for": [
        "judge/test_seal.py",
        "evals/test_injection.py",
    ],
    "YAML of every kind: one sentence, bounded": ["flow/test_document.py", "flow/test_load.py"],
    "--out touches nothing that is not ours; a key never stands beside a torn file": [
        "flow/test_out.py",
        "flow/test_power_cut.py",
        "flow/test_damaged_run.py",
    ],
    "files of judgements and of tasks: nothing is passed over without a count": [
        "evals/test_judgement_files.py",
        "evals/test_odd_files.py",
    ],
    "hostile rows, bombs, pointers and templates: bounded, and one sentence": [
        "data/test_hostile_rows.py",
        "data/test_rows.py",
        "chat/test_hub_template.py",
    ],
    "the verbs of the command line never end in a traceback": [
        "flow/test_verbs.py",
        "flow/test_export.py",
        "flow/test_revise.py",
    ],
}


def pytest(files: list[str], **env: str) -> tuple[int, str, float]:
    """Run test files: exit code, what was said, seconds."""
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not real",
        *(str(Path("tests") / file) for file in files),
    ]
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **env},
    )
    return done.returncode, done.stdout, time.monotonic() - started


def suites(quick: bool) -> Iterator[Row]:
    """A row an area."""
    for promise, files in SUITES.items():
        code, said, seconds = pytest(files)
        marks = "".join(re.findall(r"^([.FEsx]+) +\[", said, re.MULTILINE))
        figures = {
            "passed": marks.count("."),
            "failed": marks.count("F") + marks.count("E"),
            "seconds": round(seconds, 1),
        }
        yield Row(
            promise,
            f"{figures['passed']} tests pass, {figures['failed']} fail; {seconds:.0f} s",
            code == 0,
            figures,
        )


def fuzz(quick: bool) -> Iterator[Row]:
    """The property-based tests with new cases; none may end in anything but a sentence, take 10 s,
    or 2 GB."""
    num = 500 if quick else 5000
    files = [
        str(path.relative_to(ROOT / "tests"))
        for path in sorted((ROOT / "tests").glob("*/test_fuzz_*.py"))
    ]
    code, said, seconds = pytest(files, BEZOAR_FUZZ_CASES=str(num))
    found = re.search(
        r"fuzz: (\d+) cases, (\d+) refused in a sentence, slowest ([\d.]+) s, at most (\d+) MB",
        said,
    )
    cases, refused, slowest_s, most_mb = map(float, found.groups()) if found else (0, 0, 0, 0)
    if code:
        print(said)
    yield Row(
        f"{num:,} cases of odd replies, rows, recipes, evaluation files and model folders: no"
        " traceback, none over 10 s, none over 2 GB",
        f"{cases:.0f} cases, {refused:.0f} refused in a sentence, {'none' if not code else 'some'}"
        f" otherwise; slowest {slowest_s:.2f} s, at most {most_mb:.0f} MB for the whole process;"
        f" {seconds:.0f} s",
        not code and cases >= num * 0.95 and most_mb < 2048,
        {
            "cases": cases,
            "refused": refused,
            "slowest_s": slowest_s,
            "most_mb": most_mb,
            "seconds": round(seconds),
        },
    )
