"""Rows through a scheme, a form filter, a near-duplicate filter and a judge, by one process and by
the two nodes of a Ray cluster on this machine, against a scripted server on 127.0.0.1.

    python benchmarks/ray_scale.py [--rows 10000 100000] [--by local ray]

It needs an interpreter with Ray (`pip install 'bezoar[ray]'`). A row of results is a run: wall
time, CPU time and the most memory of the process of the command, the most memory of a worker, and
what the server counted; they go to benchmarks/results/ray_scale.json, those of other runs stay. The
exit code is 1 when a request was asked again after its answer or rows differ. A run takes up to 3
hours.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from faults import write
from hostile.command import Place, Row, ended
from hostile.server import serving

RESULT = Path(__file__).parent / "results" / "ray_scale.json"
DELAY_S = 0.2
CONCURRENCY = 256
STORE_BYTES = 80 << 20
MOST_S = 3 * 3600
REPEATED = 0.1
"""The share of tasks that nearly repeat an earlier one."""


def tasks(place: Place, num: int) -> None:
    """Tasks of 24 words, a tenth of them an earlier one with two words changed."""
    rng = random.Random(1)
    starts, ends = [a + b for a in "bdfgklmnprstvw" for b in "aeiou"], "ll n rk st mp sk"
    words = [f"{start}{other}{end}" for start in starts for other in starts for end in ends.split()]
    with (place.path / "tasks.jsonl").open("w") as file:
        texts = list[str]()
        for i in range(num):
            if texts and rng.random() < REPEATED:
                said = rng.choice(texts).split()
                said[-1] = f"{i}"
            else:
                said = [*rng.choices(words, k=23), f"{i}"]
            texts.append(" ".join(said))
            row = {"inputs": texts[-1], "targets": "x", "submix": "t0", "task_name": f"t{i % 9}"}
            file.write(json.dumps({**row, "template_type": "zs_noopt"}) + "\n")


def recipe(place: Place, url: str, num: int, launch: dict[str, Any]) -> None:
    """Four stages behind the tasks."""
    (place.path / "rubric.txt").write_text("Accept or Reject?\n{record}\n")
    # the paper's long ones would make all prompts alike
    systems = (json.dumps({"id": i, "text": f"Answer {i}."}) for i in range(1, 17))
    (place.path / "systems.jsonl").write_text("\n".join(systems) + "\n")
    model = {"kind": "endpoint", "url": url, "model": "m", "concurrency": CONCURRENCY}
    model["prices"] = {"input_usd_per_million": 1.0, "output_usd_per_million": 3.0}
    made = {"kind": "orca", "seeds": "tasks", "teacher": "model", "shares": {"t0": 1}}
    made["systems"] = "systems.jsonl"
    judged = {"kind": "filter", "rows": "distinct", "judge": "model", "rubric": "rubric.txt"}
    stages = {
        "tasks": {"kind": "flan", "path": "tasks.jsonl"},
        "made": {**made, "num_rows": num},
        "formed": {"kind": "form", "rows": "made"},
        "distinct": {"kind": "dedup", "rows": "formed"},
        "kept": judged,
    }
    whole = {"name": "toy", "launch": launch, "backends": {"model": model}, "stages": stages}
    (place.path / "toy.yaml").write_text(json.dumps(whole))


@contextmanager
def cluster() -> Iterator[Any]:
    """Two nodes of a CPU each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray gives its workers way to all else, which here are server and command on the same cores
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        made.add_node(**node)
        yield made
    finally:
        made.shutdown()


class Watch(threading.Thread):
    """The most memory (MB) of a worker of ours below this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_mb, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker"):
                        self.most_mb = max(self.most_mb, process.memory_info().rss / 1e6)


def measured(num: int, launch: dict[str, Any]) -> tuple[Row, dict[str, str]]:
    """A run, and the hashes of its rows."""
    plan = {"kind": "fine", "delay_s": [DELAY_S, DELAY_S], "tally": True}
    with tempfile.TemporaryDirectory() as folder, serving(plan) as server:
        place, watch = Place(Path(folder)), Watch()
        tasks(place, num)
        recipe(place, server.url, num, launch)
        if launch["kind"] == "ray":
            watch.start()
        run = ended(place.start(), MOST_S)
        watch.done.set()
        if run.code:
            raise SystemExit(run.said[-3000:])
        status = server.status()
        twice = status["asked_again"]
        stats = [
            json.loads(file.read_text())
            for file in sorted((place.path / "runs" / "toy").glob("*/stats.json"))
        ]
        figures = {
            "rows": num,
            "by": launch["kind"],
            "wall_s": round(run.seconds, 1),
            "driver_cpu_s": round(run.cpu_s, 1),
            "driver_most_mb": round(run.most_mb),
            "worker_most_mb": round(watch.most_mb),
            "requests": status["count"],
            "most_in_flight": status["most_in_flight"],
            "asked_twice": twice,
            "usd": place.spent_usd(),
            "rows_out": [stage.get("rows_out") for stage in stats],
            "seconds": [stage.get("seconds") for stage in stats],
        }
        return Row(
            f"{num:,} rows by {launch['kind']}: no request is asked twice",
            f"{run.seconds:.0f} s, {1000 * run.cpu_s / status['count']:.2f} ms CPU of the driver a"
            f" request, {run.most_mb:.0f} MB (a worker {watch.most_mb:.0f}); {status['count']}"
            f" requests, {twice} asked twice",
            not twice,
            figures,
        ), place.digest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--by", nargs="+", choices=["local", "ray"], default=["local", "ray"])
    given = parser.parse_args()
    missed = False
    for num in given.rows:
        digests = []
        for by in given.by:
            started = time.monotonic()
            if by == "ray":
                with cluster() as nodes:
                    row, digest = measured(num, {"kind": "ray", "address": nodes.address})
            else:
                row, digest = measured(num, {"kind": "local"})
            digests.append(digest)
            same = digest == digests[0]
            rows = "the same rows" if same else "OTHER ROWS"
            if len(digests) == 1:
                rows = "the first of its size: no rows to compare with"
            print(f"{row.promise}\n         {row.measured}; {rows}", flush=True)
            missed |= not row.ok or not same
            write(f"{num} {by}", [row], time.monotonic() - started, RESULT)
    sys.exit(missed)


if __name__ == "__main__":
    main()
