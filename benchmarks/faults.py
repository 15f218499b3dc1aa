"""What is promised about money, secrets and lost answers, measured against a hostile server and the
real command line.

    python benchmarks/faults.py [--quick] [--only NAME]

Every scenario prints one row: the promise, what was measured, ok or BROKEN. All of them go to
benchmarks/results/faults.json; the exit code is 1 when a promise is broken. Nothing but 127.0.0.1
is asked. Half an hour; with --quick smaller numbers and some minutes.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from hostile import disk, judging, kills, load, models, money, replies, suites
from hostile.command import Row, listen_to_interrupts

RESULT = Path(__file__).parent / "results" / "faults.json"
SCENARIOS = {
    "replies": replies.rows,
    "judging": judging.rows,
    "money": money.rows,
    "disk": disk.rows,
    "models": models.rows,
    "load": load.rows,
    "kills": kills.rows,
    "suites": suites.suites,
    "fuzz": suites.fuzz,
}


def disk_ms(folder: Path, num: int = 50) -> float:
    """Milliseconds that a small write takes to reach the disk here."""
    path = folder / f".faults-{os.getpid()}"
    started = time.monotonic()
    with path.open("wb") as file:
        for _ in range(num):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    path.unlink()
    return (time.monotonic() - started) / num * 1000


def write(name: str, rows: list[Row], seconds: float, result: Path = RESULT) -> None:
    """Put the rows of a scenario into a file of results, with the machine that they were measured
    on."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[1], 1),
        "fsync_ms": round(disk_ms(result.parent), 2),
    }
    results = json.loads(result.read_text()) if result.exists() else {}
    results[name] = {
        "machine": machine,
        "seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }
    result.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller numbers")
    parser.add_argument(
        "--only",
        default="",
        choices=["", *SCENARIOS],
        help="one scenario; the results of the others stay as they are",
    )
    given = parser.parse_args()
    listen_to_interrupts()
    kept = num = 0
    for name in [given.only] if given.only else SCENARIOS:
        started, rows = time.monotonic(), list[Row]()
        for row in SCENARIOS[name](given.quick):
            rows.append(row)
            print(
                f"{'ok    ' if row.ok else 'BROKEN'} {name}: {row.promise}\n        "
                f" {row.measured}",
                flush=True,
            )
        num, kept = num + len(rows), kept + sum(row.ok for row in rows)
        if not given.quick:
            write(name, rows, time.monotonic() - started)
    print(f"{kept} of {num} promises kept")
    sys.exit(0 if kept == num else 1)


if __name__ == "__main__":
    main()
