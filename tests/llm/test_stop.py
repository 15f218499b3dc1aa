"""Runs that are killed or interrupted while they ask an endpoint, and go on."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bezoar.llm.journal import Journal
from tests.helpers.server import Server, after, echo, serving

ASK = """
import sys, pathlib
from bezoar.chat.types import Message
from bezoar.llm.types import Request
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.budget import Budget
from bezoar.llm.pool import Pool
from bezoar.progress import Progress
requests = [Request((Message("user", f"question {i}"),)) for i in range(200)]
with Journal(pathlib.Path(sys.argv[2])) as journal:
    pool = Pool(Endpoint(url=sys.argv[1], model="m", concurrency=8).open(), journal, Budget(), Progress())
    print([r.text for r in pool.ask(requests)])
"""  # noqa: E501


slow = after(0.02, echo)


def start(server: Server, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK, server.url, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(server: Server, num: int) -> None:
    end = time.monotonic() + 30
    while sum(server.seen.values()) < num and time.monotonic() < end:
        time.sleep(0.002)


def answered(path: Path) -> set[str]:
    """What has been answered, also where a kill came before the answer was read."""
    with Journal(path) as journal:
        return {
            e["request"]["messages"][0]["content"]
            for e in journal.entries()
            if e["reply"].get("finish", "stop") == "stop"
        }


def test_a_killed_run_asks_nothing_again_that_was_answered(tmp_path: Path) -> None:
    path, rng = tmp_path / "journal.sqlite", random.Random(0)
    with serving(slow) as server:
        for _ in range(3):
            running = start(server, path)
            wait_for(server, sum(server.seen.values()) + rng.randrange(20, 50))
            running.send_signal(signal.SIGKILL)
            running.communicate()
            kept, before = answered(path), server.seen.copy()
            assert len(kept) >= sum(server.answered.values()) - 3 * 16, (
                "replies reached the client and not the disk"
            )
        running = start(server, path)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert out.strip() == str([f"QUESTION {i}" for i in range(200)])
        assert all(server.seen[prompt] == before[prompt] for prompt in kept)
        assert sum(server.seen.values()) <= 200 + 3 * 16
        asked = sum(server.seen.values())
        assert start(server, path).wait(60) == 0
        assert sum(server.seen.values()) == asked


def test_an_interrupt_keeps_what_is_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with serving(after(0.3, echo)) as server:
        running = start(server, path)
        wait_for(server, 20)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
        assert "KeyboardInterrupt" in err
        assert running.returncode not in (0, None)
        assert 16 <= len(answered(path)) == len(server.seen) < 60
