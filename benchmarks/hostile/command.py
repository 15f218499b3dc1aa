"""A recipe in a folder of its own, and the command line that carries it out, as a person would run
it."""

import hashlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.server import Server

COMMAND = [sys.executable, "-c", "from bezoar.cli import main; main()", "run"]
MOST_S = 600


@dataclass(frozen=True)
class Ended:
    """A command that has ended: exit code, what it said, seconds from its start, CPU seconds, the
    most memory it held."""

    code: int
    said: str
    seconds: float
    cpu_s: float
    most_mb: float


@dataclass(frozen=True)
class Row:
    """One promise, and what was measured."""

    promise: str
    measured: str
    ok: bool
    figures: dict[str, Any]


class Place:
    """A folder with rows, a rubric and the recipe `toy.yaml`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "rubric.txt").write_text("Accept or Reject?\n{record}\n")

    def rows(self, num: int) -> None:
        """Rows whose prompts hold a number each."""
        made = [
            {"prompt": f"Ask number {i}.", "response": f"Reply to it, {'word ' * (i % 7)}{i}."}
            for i in range(num)
        ]
        (self.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))

    def tasks(self, num: int) -> None:
        """Tasks as the Orca scheme takes them."""
        made = [
            {
                "inputs": f"Solve number {i}.",
                "targets": str(i),
                "submix": "t0",
                "task_name": f"task {i % 9}",
                "template_type": "zs_noopt",
            }
            for i in range(num)
        ]
        (self.path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))

    def filter(
        self, server: Server, *, name: str = "toy", budget_usd: float | None = None, **backend: Any
    ) -> None:
        """A recipe whose judge is asked about every row."""
        self._write(
            name,
            budget_usd,
            server,
            backend,
            {
                "rows": {"kind": "jsonl", "path": "rows.jsonl"},
                "kept": {
                    "kind": "filter",
                    "rows": "rows",
                    "judge": "model",
                    "rubric": "rubric.txt",
                },
            },
        )

    def scheme(self, server: Server, num: int, **backend: Any) -> None:
        """A recipe whose teacher answers tasks and whose judge is asked about every answer."""
        self._write(
            "toy",
            None,
            server,
            backend,
            {
                "tasks": {"kind": "flan", "path": "tasks.jsonl"},
                "made": {
                    "kind": "orca",
                    "seeds": "tasks",
                    "teacher": "model",
                    "num_rows": num,
                    "shares": {"t0": 1},
                },
                "kept": {
                    "kind": "filter",
                    "rows": "made",
                    "judge": "model",
                    "rubric": "rubric.txt",
                },
            },
        )

    def _write(
        self,
        name: str,
        budget_usd: float | None,
        server: Server,
        backend: dict[str, Any],
        stages: dict[str, Any],
    ) -> None:
        model = {
            "kind": "endpoint",
            "url": server.url,
            "model": "m",
            "concurrency": 16,
            "retries": 2,
            "backoff_s": 0.05,
            **backend,
        }
        recipe = {"name": name, "seed": 5, "backends": {"model": model}, "stages": stages}
        (self.path / "toy.yaml").write_text(
            json.dumps(recipe if budget_usd is None else {**recipe, "budget_usd": budget_usd})
        )

    def start(
        self,
        *more: str,
        env: dict[str, str] | None = None,
        file_limit: int = 0,
        around: list[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start the command. `file_limit` bounds the bytes of a file, `around` is a command line
        that runs it."""

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        return subprocess.Popen(
            [*(around or []), *COMMAND, "toy.yaml", *more],
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            preexec_fn=limit if file_limit else None,
        )

    def run(self, *more: str, **how: Any) -> Ended:
        """Run the command to its end."""
        return ended(self.start(*more, **how))

    def digest(self) -> dict[str, str]:
        """The hash of every table of rows of the run."""
        found = sorted((self.path / "runs").glob("toy/*/*.parquet"))
        digests = {}
        for path in found:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[str(path.relative_to(self.path))] = digest
        return digests

    def journal(self) -> Path:
        """The journal's file."""
        return self.path / "runs" / "journal.sqlite"

    def spent_usd(self) -> float:
        """What the journal says that replies have cost."""
        with sqlite3.connect(self.journal()) as db:
            return float(db.execute("SELECT COALESCE(SUM(cost_usd), 0) FROM replies").fetchone()[0])


def ended(process: subprocess.Popen[str], most_s: float = MOST_S) -> Ended:
    """Wait for a command."""
    started, watchdog = time.monotonic(), threading.Timer(most_s, process.kill)
    watchdog.start()
    assert process.stdout is not None
    said = process.stdout.read()
    watchdog.cancel()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        process.returncode,
        said,
        time.monotonic() - started,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1000,
    )


@contextmanager
def place() -> Iterator[Place]:
    """A folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Place(Path(folder))


def listen_to_interrupts() -> None:
    """A shell starts background jobs with Ctrl-C switched off, and the commands started here would
    inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
