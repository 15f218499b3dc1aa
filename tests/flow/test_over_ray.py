"""A Ray cluster of two nodes on this machine against one process: the same rows, the same bill."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bezoar.chat.types import Message
from bezoar.errors import RecipeError
from bezoar.flow.cache_key import all_keys
from bezoar.flow.plan import print_plan
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from bezoar.flow.toy_size import toy_size
from bezoar.judge.filter import Filter
from bezoar.launch import Ray
from bezoar.llm.journal import Journal
from bezoar.llm.ray_worker import PARCEL_BYTES, Connection, Worker
from bezoar.llm.rehearsed import spoken
from bezoar.llm.types import Request
from bezoar.terminal import Console
from tests.helpers.command import ended
from tests.helpers.server import Server, answer, serving

NUM_ROWS = 60
URL = "http://127.0.0.1:9/v1"
STORE_BYTES = 80 << 20
WAIT_S = 240
"""A loaded machine takes a minute to start a worker."""


class Gate:
    """Answers every prompt in its own words, after a moment, unless it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.delay_s = 0.05

    def __call__(self, body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        time.sleep(self.delay_s)
        self.open.wait()
        messages = tuple(Message(row["role"], row["content"]) for row in body["messages"])
        return answer(spoken(Request(messages, seed=body.get("seed", 0))))


def recipe(folder: Path, url: str, launch: str, key_env: str = "") -> Path:
    """Rows that a teacher evolves and a judge accepts or rejects."""
    rows = [{"prompt": f"How do {i} ducks swim?", "answer": "Well."} for i in range(NUM_ROWS)]
    folder.mkdir(exist_ok=True)
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"kind": "endpoint", "url": url, "model": "m", "concurrency": 16, "key_env": key_env}
    model["prices"] = {"input_usd_per_million": 1.0, "output_usd_per_million": 3.0}
    path = folder / "ducks.yaml"
    path.write_text(
        f"name: ducks\nlaunch: {launch}\nbackends: {{model: {json.dumps(model)}}}\nstages:\n"
        "  seeds: {kind: jsonl, path: seeds.jsonl, response: answer}\n"
        f"  evolved: {{kind: evol_instruct, seeds: seeds, teacher: model, num_seeds: {NUM_ROWS},"
        " rounds: 1}\n"
        "  kept: {kind: filter, rows: evolved, judge: model}\n"
    )
    return path


class Run:
    """`bezoar run` in the background."""

    def __init__(self, path: Path, **environment: str) -> None:
        self.log = path.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bezoar", "run", path.name],
                cwd=path.parent,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def told(self) -> str:
        return " ".join(self.log.read_text().split())

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not is_so():
            assert self.process.poll() is None, self.told
            assert time.monotonic() < end, self.told
            time.sleep(0.02)

    def finish(self) -> None:
        assert self.process.wait(WAIT_S) == 0, self.told

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def outcome(path: Path) -> tuple[list[Any], list[Any], float]:
    """The rows of both stages, and the bill."""
    run = path.parent / "runs" / "ducks"
    rows = [
        pq.read_table(run / name / "rows.parquet").to_pylist() for name in ("02-evolved", "03-kept")
    ]
    with Journal(path.parent / "runs" / "journal.sqlite") as journal:
        return rows[0], rows[1], journal.spent_usd("ducks")


def answered_prompts(path: Path) -> set[str]:
    """The prompts whose answers are in the journal."""
    with Journal(path.parent / "runs" / "journal.sqlite") as journal:
        entries = [entry for entry in journal.entries() if entry["reply"].get("finish") == "stop"]
    return {entry["request"]["messages"][-1]["content"] for entry in entries}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs Ray: pip install 'bezoar[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def asking(node: Any, server: Server) -> list[int]:
    """The processes of a node that have a connection to the server."""
    psutil = pytest.importorskip("psutil")
    found, port = [], int(server.url.rpartition(":")[2].partition("/")[0])
    [raylet] = node.all_processes["raylet"]
    for worker in psutil.Process(raylet.process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if any(c.raddr and c.raddr.port == port for c in worker.net_connections()):
                found.append(worker.pid)
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of one process."""
    with serving(Gate()) as server:
        path = recipe(tmp_path_factory.mktemp("local"), server.url, "{kind: local}")
        # the address is in the journal's keys, and in no row
        Run(path).finish()
        return outcome(path)


@pytest.mark.real
def test_a_node_is_lost_and_nothing_else(cluster: Any, local: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    gate = Gate()
    with serving(gate) as server:
        launch = f'{{kind: ray, address: "{cluster.address}"}}'
        path = recipe(tmp_path / "two", server.url, launch, key_env="DUCK_KEY")
        run = Run(path, DUCK_KEY="sk-of-the-ducks")
        run.wait_until(lambda: bool(asking(node, server) and asking(cluster.head_node, server)))
        run.wait_until(lambda: sum(server.answered.values()) > 20)
        # what is on the wire now has no answer yet, and half of it is the lost node's
        gate.open.clear()
        time.sleep(1)
        workers, kept = asking(node, server), set(server.answered)
        cluster.remove_node(node, allow_graceful=False)
        run.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        gate.open.set()
        run.finish()
        assert "is left out: it is lost, and the others send its" in run.told
        assert outcome(path) == local
        # by the server's own count: each prompt answered once, and what was lost asked twice
        assert set(server.answered.values()) == {1}
        twice = {prompt for prompt, num in server.seen.items() if num > 1}
        assert 0 < len(twice) <= 16
        assert not twice & kept
        assert server.keys == {"Bearer sk-of-the-ducks"}
    logs = [file for file in Path("/tmp/ray/session_latest/").rglob("*") if file.is_file()]
    assert logs
    assert not any(b"sk-of-the-ducks" in file.read_bytes() for file in logs)


@pytest.mark.real
def test_a_killed_run_goes_on_in_one_process_and_back(
    cluster: Any, local: Any, tmp_path: Path
) -> None:
    with serving(Gate()) as server:
        ray = f'{{kind: ray, address: "{cluster.address}"}}'
        asked = dict[str, int]()
        for launch, num in ((ray, 20), ("{kind: local}", 60)):
            path = recipe(tmp_path, server.url, launch)
            run = Run(path)
            run.wait_until(lambda num=num: sum(server.answered.values()) > num)
            run.kill()
            asked |= {prompt: server.seen[prompt] for prompt in answered_prompts(path)}
        assert asked
        Run(recipe(tmp_path, server.url, ray)).finish()
        assert outcome(path) == local
        # what had an answer was asked no more
        assert {prompt: server.seen[prompt] for prompt in asked} == asked
        # a kill loses what is on the wire, and no more
        assert sum(server.answered.values()) - len(server.answered) <= 2 * 16


@pytest.mark.real
def test_a_node_without_bezoar_is_left_out(cluster: Any, local: Any, tmp_path: Path) -> None:
    node, gate = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": ""}), Gate()
    with serving(gate) as server:
        gate.delay_s = 4.0
        ray = f'{{kind: ray, address: "{cluster.address}"}}'
        run = Run(recipe(tmp_path, server.url, ray))
        why = "bezoar does not start there (ModuleNotFoundError: No module named 'bezoar')"
        run.wait_until(lambda: "is left out" in run.told)
        gate.delay_s = 0.05
        assert why in run.told
        run.finish()
        cluster.remove_node(node)
        assert set(server.seen.values()) == {1}


@pytest.mark.real
def test_an_address_without_a_cluster(cluster: Any, tmp_path: Path) -> None:
    with serving(Gate()) as server:
        path = recipe(tmp_path, server.url, '{kind: ray, address: "127.0.0.1:9"}')
        code, told = ended("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert "no Ray cluster can be used at 127.0.0.1:9" in told
    assert not server.seen


def test_where_it_runs_is_in_the_plan_and_in_no_key(tmp_path: Path) -> None:
    local = load_recipe(recipe(tmp_path, URL, "{kind: local}"))
    path = recipe(tmp_path, URL, "{kind: ray}")
    assert all_keys(load_recipe(path)) == all_keys(local)
    told = Console(file=(text := io.StringIO()), width=300)
    # what the machine lacks is said behind the plan
    missing = pytest.raises(RecipeError, match=re.escape("run `pip install 'bezoar[ray]'`"))
    with nullcontext() if find_spec("ray") else missing:
        print_plan(load_recipe(path), RunDir(tmp_path / "runs" / "ducks"), told)
    who = "evolved, kept: the nodes of the Ray cluster at auto ask model"
    assert f"{who}; journal, budget and rows stay in this process." in text.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("{kind: ray}", "{kind: ray, address: x}", "address is auto, local or HOST:PORT, not 'x'"),
        ("model}\n", "model, launch: {kind: ray}}\n", ""),
        ("model}\n", "model, launch: {kind: torchrun}}\n", "the kinds here are local, ray"),
        (
            "{kind: endpoint,",
            "{kind: endpoint, batch: {},",
            "launch: no stage sends requests by it; remove the key",
        ),
        (
            "  kept:",
            "  t: {kind: train, model: m, rows: evolved, objective: {kind: sft}}\n  kept:",
            "launch: Ray sends requests, and t trains; write `launch: {kind: local}` or",
        ),
        (
            "answer}",
            "answer}\n  two: {kind: tool_calls, num_rows: 2, launch: {kind: ray}}",
            "launch needs a teacher",
        ),
    ],
)
def test_what_cannot_run_there_is_refused(old: str, new: str, fault: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, URL, "{kind: ray}")
    text = path.read_text().replace('{"kind": "endpoint"', "{kind: endpoint")
    assert old in text
    path.write_text(text.replace(old, new, 1) + "models: {m: {path: x}}\n" * ("train" in new))
    with pytest.raises(RecipeError, match=re.escape(fault)) if fault else nullcontext():
        load_recipe(path)


def test_a_rehearsal_stays_in_this_process(tmp_path: Path) -> None:
    path = recipe(tmp_path, URL, "{kind: local}")
    path.write_text(path.read_text().replace("judge: model", "judge: model, launch: {kind: ray}"))
    stage = load_recipe(path).stages["kept"]
    assert isinstance(stage, Filter)
    assert stage.launch == Ray()
    assert toy_size(stage).launch is None


def test_a_local_model_answers_where_it_is(tmp_path: Path) -> None:
    path = recipe(tmp_path, URL, "{kind: local}")
    model = "backends: {here: {kind: local, model: smollm2-135m-instruct}, "
    text = path.read_text().replace("backends: {", model)
    text = text.replace("judge: model", "judge: here, launch: {kind: ray}")
    path.write_text(text)
    with pytest.raises(RecipeError, match=re.escape("stages.kept.launch: Ray sends requests")):
        load_recipe(path)


def test_a_worker_hands_over_in_small_messages_what_came() -> None:
    def long(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return answer("x" * (PARCEL_BYTES // 3))

    with serving(long) as server:
        worker, connection = Worker(), Connection(0, server.url, "", 10.0, 8)
        body = json.dumps({"messages": [{"role": "user", "content": "?"}]}).encode()
        worker.send(connection, [(index, body) for index in range(5)])
        came = list[int]()
        while len(came) < 5:
            some = worker.take(connection)
            assert sum(len(attempt.body) for attempt in some) <= PARCEL_BYTES
            came += [attempt.index for attempt in some]
        assert sorted(came) == list(range(5))
        worker.close(connection)
        # a call that comes late opens nothing again
        worker.send(connection, [(5, body)])
        assert worker.take(connection) == []
        assert sum(server.seen.values()) == 5


def test_a_worker_masks_the_key_that_a_server_echoes() -> None:
    key, codes = "sk-of-a-worker-alone-4711", iter((200, 500))

    def echo(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return next(codes), {}, json.dumps({"error": {"message": f"you sent Bearer {key}"}})

    with serving(echo) as server:
        worker, connection = Worker(), Connection(0, server.url, key, 10.0, 1)
        body = json.dumps({"messages": [{"role": "user", "content": "?"}]}).encode()
        worker.send(connection, [(0, body), (1, body)])
        came = list[Any]()
        while len(came) < 2:
            came += worker.take(connection)
        worker.close(connection)
    assert f"Bearer {key}" in server.keys
    assert all("you sent Bearer ***" in attempt.body for attempt in came)
    assert key not in str(came)


@pytest.mark.real
def test_lost_workers_are_replaced_and_a_stop_keeps_what_is_in_flight(
    cluster: Any, local: Any, tmp_path: Path
) -> None:
    gate = Gate()
    with serving(gate) as server:
        path = recipe(tmp_path, server.url, f'{{kind: ray, address: "{cluster.address}"}}')
        run = Run(path)
        run.wait_until(lambda: sum(server.answered.values()) > 20)
        gate.open.clear()
        time.sleep(1)
        for pid in asking(cluster.head_node, server):
            os.kill(pid, signal.SIGKILL)
        run.wait_until(lambda: "it is lost, and the others send its" in run.told)
        gate.open.set()
        run.wait_until(lambda: sum(server.answered.values()) > 40)
        gate.delay_s = 1.0
        run.process.terminate()
        assert run.process.wait(WAIT_S) == 130
        assert "bezoar: stopped; run the same command to go on." in run.told
        num_kept = len(answered_prompts(path))
        assert num_kept == len(server.answered)
        gate.delay_s = 0.05
        Run(path).finish()
        assert outcome(path) == local
        assert set(server.answered.values()) == {1}
