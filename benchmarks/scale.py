"""What bezoar does at scale, measured against scripted servers on 127.0.0.1.

    python benchmarks/scale.py [--quick] [--only NAME] [--peers PYTHON]

Every scenario prints one row a measurement; all of them go to benchmarks/results/scale.json. The
exit code is 1 when an aim is missed. PYTHON is the interpreter of an environment with the peers
(`openai`, `bespokelabs-curator`); those that are not installed there are left out, and said.
"""

import argparse
import sys
import time
from pathlib import Path

from faults import write
from hostile.command import Row
from scaling import in_flight

RESULT = Path(__file__).parent / "results" / "scale.json"
SCENARIOS = {"requests": in_flight.rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller numbers, nothing written")
    parser.add_argument("--only", default="", choices=["", *SCENARIOS], help="one scenario")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the peers")
    given = parser.parse_args()
    missed = 0
    for name in [given.only] if given.only else SCENARIOS:
        started, rows = time.monotonic(), list[Row]()
        for row in SCENARIOS[name](given.quick, given.peers):
            rows.append(row)
            print(f"{'ok    ' if row.ok else 'MISSED'} {row.promise}\n         {row.measured}")
            sys.stdout.flush()
        missed += sum(not row.ok for row in rows)
        if not given.quick:
            write(name, rows, time.monotonic() - started, RESULT)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
