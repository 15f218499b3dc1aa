"""What a slow server makes people hear: what is asked, what timed out, what is waited for."""

import json
import signal
import time
from pathlib import Path
from typing import Any

from bezoar.io import read_json
from tests.flow.test_stopped import TOLD, in_journal, judged, running, wait_for
from tests.helpers.server import accept, after, serving

HASTY = "from bezoar.llm import patience; patience.GRACE_S = 0.3; "
"""Of a command that waits for less than the 5 s that tests/flow/test_stopped.py sees."""


def patient(folder: Path, url: str, **settings: Any) -> Path:
    """The recipe of 8 rows with other settings of its judge."""
    path = judged(folder, url)
    recipe = json.loads(path.read_text())
    recipe["backends"]["judge"] |= settings
    path.write_text(json.dumps(recipe))
    return path


def test_requests_that_time_out_are_told_and_counted(tmp_path: Path) -> None:
    def slow_once(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        if not seen:
            time.sleep(1.5)
        return accept(body, seen)

    with serving(slow_once) as server:
        recipe = patient(tmp_path, server.url, timeout_s=0.5, backoff_s=0.1)
        with running("run", recipe, cwd=tmp_path) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        url = server.url
    # at the start, and not again
    assert out.count("02 kept: 8 requests to judge, 4 at a time") == 1
    assert out.index("8 requests to judge") < out.index("timed out")
    told = "8 requests timed out after 0.5 s and were sent again; lower concurrency (4) or raise"
    assert f"{told} timeout_s ({url})" in " ".join(out.split())
    assert out.count("lower concurrency") <= 2
    calls = read_json(tmp_path / "runs" / "toy" / "02-kept" / "stats.json")["calls"]
    assert (calls["timed_out"], calls["sent_again"], calls["failed"]) == (8, 8, 0)


def test_a_server_in_time_is_no_news(tmp_path: Path) -> None:
    with (
        serving(accept) as server,
        running("run", judged(tmp_path, server.url), cwd=tmp_path) as process,
    ):
        out, _ = process.communicate(timeout=60)
    assert "timed out" not in out
    calls = read_json(tmp_path / "runs" / "toy" / "02-kept" / "stats.json")["calls"]
    assert (calls["timed_out"], calls["sent_again"]) == (0, 0)


def test_slow_answers_are_waited_for_as_long_again_and_kept(tmp_path: Path) -> None:
    with serving(after(3.0, accept)) as server:
        recipe = judged(tmp_path, server.url)
        with running("run", recipe, cwd=tmp_path, first=HASTY) as process:
            wait_for(server, 4)
            time.sleep(2.0)  # an answer after 3.0 s is behind the least that is waited, 0.3 s
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, TOLD)
        assert " s for 4 requests in flight; press Ctrl-C again to end now" in out
        assert "stopping: waiting up to 0 s" not in out
        assert "not waited for" not in out
    assert in_journal(tmp_path) == 4


def test_what_is_not_waited_for_is_told(tmp_path: Path) -> None:
    with serving(after(60, accept)) as server:
        recipe = judged(tmp_path, server.url)
        with running("run", recipe, cwd=tmp_path, first=HASTY) as process:
            wait_for(server, 4)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, TOLD)
        assert "4 requests in flight; press Ctrl-C again to end now" in out
        assert "4 requests were not waited for" in out
