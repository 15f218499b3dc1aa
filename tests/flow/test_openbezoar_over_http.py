"""recipes/openbezoar.yaml as it is in its file, but for the numbers of rows and the names of models
in `CHANGED`: all 19 stages over HTTP, killed twice, to the report."""

import hashlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Message
from bezoar.llm.rehearsed import spoken
from bezoar.llm.types import Request
from tests.helpers.hub import serving_hub
from tests.helpers.hub_datasets import add_datasets
from tests.helpers.hub_models import plant_packaged_model
from tests.helpers.server import Server, answer, serving

RECIPE = Path(__file__).parents[2] / "recipes" / "openbezoar.yaml"
CHANGED = {
    # models and where they are served
    "openlm-research/open_llama_3b_v2, quantize": "smollm2-135m-instruct, quantize",
    "http://127.0.0.1:8000/v1": "URL",
    "https://api.openai.com/v1": "URL",
    "https://api.anthropic.com/v1": "URL",
    # rows
    "limit: 15000}": "limit: 60}",
    "per_submix: 3000}": "per_submix: 30}",
    "limit: 100000}": "limit: 64}",
    "limit: 1000}": "limit: 20}",
    "num_rows: 1500}": "num_rows: 340}",
    "num_rows: 5520,": "num_rows: 24,",
    "num_seeds: 1150,": "num_seeds: 8,",
    "mt_bench: {judge": "mt_bench: {limit: 3, judge",
    **{f"name: {name}}}": f"name: {name}, limit: 6}}" for name in ("arc_easy", "boolq")},
}
NUM_STAGES = 19
CHECKPOINT = 20
"""The step of the first one, of the 27 of sft-lamini."""


def changed(url: str) -> str:
    text = RECIPE.read_text()
    for written, here in CHANGED.items():
        assert text.count(written) == 1, written
        text = text.replace(written, here.replace("URL", url))
    return text


def key(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def speaker(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
    """All three models behind one server like llama.cpp's: a begun answer comes back with the rest,
    later or sooner. The id of a reply names its request."""
    messages = tuple(Message(row["role"], row["content"]) for row in body["messages"])
    begun = messages[-1].content if messages[-1].role == "assistant" else ""
    if begun.startswith("[A]"):
        text = begun + "] [E]"
    else:
        asked = messages[:-1] if begun else messages
        text = spoken(Request(asked, prefill=begun, seed=body.get("seed", 0)))
    name = key(body)
    time.sleep(int(name[:4], 16) / 0xFFFF * 0.4)
    status, headers, reply = answer(text)
    return status, headers, reply.replace('"id": "x"', f'"id": "{name}"')


@dataclass
class Runs:
    """One run directory, and the command that fills it."""

    folder: Path
    environment: dict[str, str]

    @property
    def path(self) -> Path:
        return self.folder / "runs" / "openbezoar"

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bezoar", "run", "openbezoar.yaml"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def killed_when(self, is_time: Callable[[], bool]) -> str:
        """What the run told until it was killed, at that time and not before."""
        process = self.start()
        while process.poll() is None and not is_time():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, told
        return told

    def kept(self) -> set[str]:
        """The requests whose replies are in the journal, beside those of the evaluated models."""
        with sqlite3.connect(self.folder / "runs" / "journal.sqlite") as journal:
            found = journal.execute("SELECT body FROM replies WHERE body IS NOT NULL")
            bodies = [json.loads(body) for (body,) in found]
        assert len({body["id"] for body in bodies}) == len(bodies)
        return {body["id"] for body in bodies}

    def steps(self, stage: str) -> dict[int, float]:
        """When each step was logged, by its number."""
        lines = map(json.loads, (self.path / "metrics.jsonl").read_text().splitlines())
        logged = [line for line in lines if line["stage"] == stage and "loss" in line]
        times = {line["step"]: line["time_s"] for line in logged}
        assert len(times) == len(logged)
        return times


def asked(server: Server) -> Counter[str]:
    return Counter(map(key, server.bodies))


@pytest.mark.real
def test_the_full_recipe_goes_through_http_and_two_kills_to_its_report(tmp_path: Path) -> None:
    for package in ("torch", "datasets", "lm_eval", "bitsandbytes"):
        pytest.importorskip(package)
    plant_packaged_model(tmp_path / "home" / "bezoar")
    with serving_hub(tmp_path / "hub") as hub, serving(speaker) as server:
        add_datasets(hub)
        (tmp_path / "openbezoar.yaml").write_text(changed(server.url))
        keys = {"OPENAI_API_KEY": "sk-none-1", "ANTHROPIC_API_KEY": "sk-none-2"}
        more = {**keys, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        runs = Runs(tmp_path, hub.environment(tmp_path / "home", **more))

        # 1) in the middle of orca: some of its replies are there, others on their way
        started: list[int] = []

        def amid_orca() -> bool:
            with server.lock:
                num = server.answered.total()
            if not started and (runs.path / "05-lamini").is_dir():
                started.append(num)
            return bool(started) and num >= started[0] + 4

        runs.killed_when(amid_orca)
        assert not (runs.path / "06-orca").exists()
        kept, before = runs.kept(), asked(server)
        in_flight = set(before) - kept
        assert in_flight

        # 2) behind the first checkpoint of a training: nothing that was kept is asked again
        def amid_training() -> bool:
            return any(runs.path.glob(f".work-sft-lamini-*/*/step-{CHECKPOINT}"))

        runs.killed_when(amid_training)
        died_s = time.time()
        assert not (runs.path / "11-sft-lamini").exists()
        assert all(num == 1 or name in in_flight for name, num in asked(server).items())
        assert kept < runs.kept()
        # 3) to the end
        process = runs.start()
        told = process.communicate()[0]
        assert process.returncode == 0, told
        # every question was bought once, but for those that were on their way
        twice = {name for name, num in asked(server).items() if num > 1}
        assert twice <= in_flight
        assert runs.kept() == set(asked(server))
        # the training went on from its checkpoint
        steps = runs.steps("sft-lamini")
        assert [steps[n] < died_s for n in sorted(steps)] == [n <= CHECKPOINT for n in range(1, 28)]
    stats = [json.loads(path.read_text()) for path in sorted(runs.path.glob("[0-9]*/stats.json"))]
    assert len(stats) == NUM_STAGES
    assert all(counts.get("rows_out", 1) for counts in stats)
    page = (runs.path / "report.html").read_text()
    for name in re.findall(r"^  ([\w-]+): ", RECIPE.read_text().partition("stages:")[2], re.M):
        assert name in page
    # no other library's bars and warnings cut through the lines
    assert "examples/s" not in told
    assert f"10 of {NUM_STAGES} stages are done; it goes on with sft-lamini" in told
    assert f"sft-lamini: goes on from the checkpoint of step {CHECKPOINT} of 27" in told
    assert "Is it better?" in told
    assert "report: runs/openbezoar/report.html" in told
