"""What is promised about money, secrets and lost answers, measured against a hostile server and the real command line.

    python benchmarks/faults.py [--quick] [--only NAME]

Every scenario prints one row: the promise, what was measured, ok or BROKEN. All of them go to benchmarks/results/faults.json; the
exit code is 1 when a promise is broken. Nothing but 127.0.0.1 is asked. Half an hour; with --quick smaller numbers and
some minutes.
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
    "replies": replies.rows, "judging": judging.rows, "money": money.rows, "disk": disk.rows, "models": models.rows, "load": load.rows, "kills": kills.rows,
    "suites": suites.suites, "fuzz": suites.fuzz,
}  # fmt: skip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller numbers")
    parser.add_argument("--only", default="", help=f"one of {', '.join(SCENARIOS)}; the file of results stays as it is")
    given = parser.parse_args()
    listen_to_interrupts()
    started, rows = time.monotonic(), list[Row]()
    for name, scenarios in SCENARIOS.items():
        for row in scenarios(given.quick) if given.only in ("", name) else ():
            rows.append(row)
            print(f"{'ok    ' if row.ok else 'BROKEN'} {name}: {row.promise}\n         {row.measured}", flush=True)
    broken = sum(not row.ok for row in rows)
    print(f"{len(rows) - broken} of {len(rows)} promises kept; {time.monotonic() - started:.0f} s")
    if not given.only and not given.quick:
        machine = {
            "cores": len(os.sched_getaffinity(0)), "processor": platform.processor() or platform.machine(), "python": platform.python_version(),
            "load_before": os.getloadavg()[2], "fsync_ms": round(disk_ms(RESULT.parent), 2),
        }  # fmt: skip
        RESULT.write_text(json.dumps({"machine": machine, "seconds": round(time.monotonic() - started), "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
