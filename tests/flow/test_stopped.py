"""Ctrl-C and SIGTERM: told at once, what is in flight is kept, a second one ends at once, the same
command goes on."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bezoar.llm.journal import Journal
from tests.helpers.server import Server, accept, after, serving

MAIN = "from bezoar.cli import main; main()"
COMMAND = [sys.executable, "-c", MAIN]
TOLD = "bezoar: stopped; run the same command to go on.\n"
NUM_ROWS = 8


def judged(folder: Path, url: str) -> Path:
    """A recipe whose judge is asked about 8 rows, 4 at a time."""
    rows = [{"prompt": f"Ask {i}", "response": f"Reply {i}"} for i in range(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rubric.txt").write_text("Accept or Reject?\n{record}\n")
    recipe = {
        "name": "toy",
        "backends": {"judge": {"kind": "endpoint", "url": url, "model": "m", "concurrency": 4}},
        "stages": {
            "rows": {"kind": "jsonl", "path": "rows.jsonl"},
            "kept": {"kind": "filter", "rows": "rows", "judge": "judge", "rubric": "rubric.txt"},
        },
    }
    (folder / "toy.yaml").write_text(json.dumps(recipe))
    return folder / "toy.yaml"


@contextmanager
def running(*words: object, cwd: Path, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command, before which its process does something else `first`."""
    process = subprocess.Popen(
        [sys.executable, "-c", first + MAIN, *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(server: Server, num: int) -> None:
    end = time.monotonic() + 30
    while len(server.bodies) < num and time.monotonic() < end:
        time.sleep(0.005)
    assert len(server.bodies) >= num


def in_journal(folder: Path) -> int:
    with Journal(folder / "runs" / "journal.sqlite") as journal:
        return sum(entry["reply"]["finish"] == "stop" for entry in journal.entries())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_told_before_what_is_in_flight_has_come_and_that_is_kept(
    number: signal.Signals, tmp_path: Path
) -> None:
    delays_s = [1.0] * 4  # of those in flight

    def late(body: dict[str, Any], seen: int) -> Any:
        return after(delays_s.pop() if delays_s else 0.0, accept)(body, seen)

    with serving(late) as server:
        recipe = judged(tmp_path, server.url)
        with running("run", recipe, cwd=tmp_path) as process:
            wait_for(server, 4)
            process.send_signal(number)
            assert process.stderr is not None
            assert process.stderr.readline() == TOLD
            assert not server.answered, "told only after the replies had come"
            out, err = process.communicate(timeout=20)
            assert (process.returncode, err) == (130, "")
            assert "stopping: waiting up to 5 s for 4 requests in flight; press" in out
        assert in_journal(tmp_path) == len(server.bodies) == 4
        with running("run", recipe, cwd=tmp_path) as process:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, "")
            assert f"kept: {NUM_ROWS} rows" in out
        assert len(server.bodies) == NUM_ROWS


def test_a_second_one_ends_at_once(tmp_path: Path) -> None:
    with (
        serving(after(60, accept)) as server,
        running("run", judged(tmp_path, server.url), cwd=tmp_path) as process,
    ):
        wait_for(server, 4)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == TOLD
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 1.5
        assert (process.returncode, err) == (130, "")


def test_on_a_terminal(tmp_path: Path) -> None:
    with serving(after(60, accept)) as server:
        recipe = judged(tmp_path, server.url)
        pid, handle = pty.fork()
        if pid == 0:
            os.chdir(tmp_path)
            os.execv(COMMAND[0], [*COMMAND, "run", str(recipe)])
        wait_for(server, 4)
        os.write(handle, b"\x03")
        seen = ""
        end = time.monotonic() + 3  # less than the grace
        while TOLD.strip() not in seen and time.monotonic() < end:
            if select.select([handle], [], [], 0.1)[0]:
                seen += os.read(handle, 4096).decode()
        assert TOLD.strip() in seen
        os.write(handle, b"\x03")
        began = time.monotonic()
        while True:
            try:
                piece = os.read(handle, 4096).decode()
            except OSError:  # the terminal has no process any more
                break
            if not piece:
                break
            seen += piece
        _, status = os.waitpid(pid, 0)
        assert time.monotonic() - began < 1.5
        assert os.waitstatus_to_exitcode(status) == 130
        assert "Traceback" not in seen
        assert seen.rstrip("\r\n").endswith("\x1b[?25h"), "the cursor stays hidden"


TRAIN = {
    "kind": "train",
    "rows": "rows",
    "model": "tiny",
    "objective": {"kind": "sft"},
    "adapter": {"r": 2},
    "batch_size": 2,
    "epochs": 3000,
    "validation": 0,
}
LOCAL = {
    "kind": "filter",
    "rows": "rows",
    "judge": "judge",
    "rubric": "rubric.txt",
    "max_tokens": 400,
}


def steps(run: Path) -> bool:
    return (run / "metrics.jsonl").is_file() and '"step"' in (run / "metrics.jsonl").read_text()


def answers(run: Path) -> bool:
    return (run / "journal.sqlite").is_file() and in_journal(run.parent.parent) > 0


@pytest.mark.parametrize(
    ("last", "works"), [(TRAIN, steps), (LOCAL, answers)], ids=["training", "a local model answers"]
)
def test_while_the_machine_works(
    last: dict[str, Any], works: Callable[[Path], bool], tiny_model: Path, tmp_path: Path
) -> None:
    recipe = json.loads(judged(tmp_path, "http://127.0.0.1:9/v1").read_text())
    if last is TRAIN:
        recipe["models"], recipe["backends"] = (
            {"tiny": {"path": str(tiny_model), "dtype": "float32"}},
            {},
        )
    else:
        recipe["backends"]["judge"] = {
            "kind": "local",
            "model": str(tiny_model),
            "group": 1,
            "dtype": "float32",
        }
    recipe["stages"]["kept"] = last
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe))
    with running("run", "toy.yaml", cwd=tmp_path) as process:
        end = time.monotonic() + 60
        while (
            not works(tmp_path / "runs" / "toy")
            and time.monotonic() < end
            and process.poll() is None
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, TOLD)


def test_what_was_told_to_ignore_a_signal_ignores_it(tmp_path: Path) -> None:
    with serving(after(0.3, accept)) as server:
        recipe = judged(tmp_path, server.url)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            with running("run", recipe, cwd=tmp_path) as process:
                wait_for(server, 1)
                process.send_signal(signal.SIGHUP)
                _, err = process.communicate(timeout=30)
                assert (process.returncode, err) == (0, "")
        finally:
            signal.signal(signal.SIGHUP, before)


IN_A_CALLBACK = """
import signal, time, weakref
from bezoar import stop
class Thing: pass
stop.listen()
thing = Thing()
watched = weakref.ref(thing, lambda gone: signal.raise_signal(signal.SIGTERM))
try:
    del thing  # what the callback raises is dropped by Python
    time.sleep(60)
    print("missed")
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_interrupt_that_python_drops_is_raised_anew() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "stopped\n"
    assert done.stderr == "bezoar: stopped; run the same command to go on.\n"


def catches(pid: int, number: signal.Signals) -> bool:
    caught = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    )
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_it_is_told_even_where_nothing_is_left_to_end(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "bezoar", "run", "no.yaml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not catches(process.pid, signal.SIGTERM):
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)  # most of the program is not imported yet
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, TOLD)
