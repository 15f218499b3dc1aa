"""Servers that are started and stopped: a process that speaks as vLLM does (helpers/fake_vllm)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import EndpointError, RecipeError, UnfinishedError
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.servers import Servers, command_line
from bezoar.llm.vllm import Vllm
from bezoar.progress import Progress
from tests.helpers.questions import question, questions

FAKE = Path(__file__).parents[1] / "helpers" / "fake_vllm.py"


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.delenv("FAKE_VLLM", raising=False)
    return monkeypatch


def pool(journal: Journal, servers: Servers, **more: Any) -> Pool:
    backend = Vllm(model="some/model", **{"retries": 0, **more}).open(servers)
    return Pool(backend, journal, Budget(), Progress(), stage="s")


def lines(folder: Path) -> list[Any]:
    text = (folder / "vllm-model.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def running(log: Path) -> list[int]:
    """The processes whose command line names this port's arguments."""
    port = json.loads(log.read_text().splitlines()[0])[-1]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if port.encode() in words:
                found.append(int(entry.name))
    return found


def test_it_is_started_when_it_is_asked_and_ends_with_the_run(tmp_path: Path) -> None:
    flags = {"max-model-len": 64, "enforce-eager": True}
    with Journal(tmp_path / "j.sqlite") as journal:
        with Servers(tmp_path) as servers:
            asked = pool(journal, servers, flags=flags)
            assert not (tmp_path / "vllm-model.log").exists()
            assert [r.text for r in asked.ask_all(questions(5))] == [
                f"QUESTION {i}" for i in range(5)
            ]
            # another stage asks the same server
            assert pool(journal, servers, flags=flags).ask_all([question("x")])[0].text == "X"
            assert len(running(tmp_path / "vllm-model.log")) == 2
        assert not running(tmp_path / "vllm-model.log")
        arguments, *asked_of_it = lines(tmp_path)
        assert arguments[:2] == ["serve", "some/model"]
        assert "--host 127.0.0.1" in " ".join(arguments)
        assert "--max-model-len 64 --enforce-eager" in " ".join(arguments)
        assert len(asked_of_it) == 6
        # what the journal knows needs no server
        with Servers(tmp_path / "none") as servers:
            assert pool(journal, servers, flags=flags).ask_all(questions(5))[0].text == "QUESTION 0"
        assert not (tmp_path / "none").exists()


def test_begun_answers_and_choices_are_asked_as_vllm_takes_them(tmp_path: Path) -> None:
    begun = question("q", prefill="Well,")
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        pool(journal, servers).ask_all([begun])
    [_, (_, body)] = lines(tmp_path)
    assert body["continue_final_message"] is True
    assert body["messages"][-1] == {"role": "assistant", "content": "Well,"}


def test_one_that_cannot_start_says_why(tmp_path: Path, vllm: pytest.MonkeyPatch) -> None:
    vllm.setenv("FAKE_VLLM", "dies")
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        with pytest.raises(EndpointError) as error:
            pool(journal, servers).ask_all(questions(1))
        assert "no such model architecture" in str(error.value)
        assert "vllm-model.log" in str(error.value)


def test_one_that_dies_is_told_by_its_log_and_the_next_run_goes_on(
    tmp_path: Path, vllm: pytest.MonkeyPatch
) -> None:
    vllm.setenv("FAKE_VLLM", "3")
    how: dict[str, Any] = {"concurrency": 1, "retries": 1}
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        with pytest.raises(UnfinishedError) as error:
            pool(journal, servers, **how).ask_all(questions(6))
        assert "out of memory" in str(error.value)
        assert "has ended" in str(error.value)
        vllm.setenv("FAKE_VLLM", "")
        # a server that has ended is started anew, and is asked only for the rest
        replies = pool(journal, servers, **how).ask_all(questions(6))
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(6)]
    answered = [line for line in lines(tmp_path) if line[0] == "/v1/chat/completions"]
    assert len(answered) == 3 + 1 + 3


STARTING = """
import pathlib, sys, time
from bezoar.llm.servers import Servers
folder = pathlib.Path(sys.argv[1])
servers = Servers(folder)
servers.get("some/model", [], 60, print)
(folder / "up").touch()
time.sleep(60)
"""


def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTING, str(tmp_path)])
    try:
        while not (tmp_path / "up").exists():
            assert starter.poll() is None
            time.sleep(0.02)
        assert len(running(tmp_path / "vllm-model.log")) == 2
        starter.kill()
        starter.wait()
        while running(tmp_path / "vllm-model.log"):
            time.sleep(0.02)
    finally:
        starter.kill()


def test_an_adapter_has_a_fresh_name_each_time(tmp_path: Path) -> None:
    with Servers(tmp_path) as servers:
        server = servers.get("some/model", [], 60, print)
        first, second = server.load_adapter(tmp_path), server.load_adapter(tmp_path)
        assert first != second
        server.unload_adapter(first)
        with pytest.raises(EndpointError, match="no such adapter"):
            server.load_adapter(tmp_path / "absent")
    paths = [line[0] for line in lines(tmp_path)[1:]]
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert paths == [load, load, unload, load]


def test_without_vllm_it_says_how_to_install(vllm: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vllm.setenv("BEZOAR_VLLM", str(tmp_path / "absent"))
    with pytest.raises(RecipeError, match="pip install vllm"):
        Servers(tmp_path).get("m", [], 1, print)


def test_flags_become_arguments_and_those_of_ours_are_refused() -> None:
    assert command_line({"a": True, "b": False, "c": 2, "d": {"e": 1}}) == [
        *("--a", "--no-b", "--c", "2", "--d", '{"e": 1}')
    ]
    for flags in ({"port": 1}, {"--max-model-len": 1}, {"api-key": "x"}):
        with pytest.raises(ValueError):
            Vllm(model="m", flags=flags)


def test_what_says_where_it_runs_is_no_part_of_its_identity() -> None:
    plain = Vllm(model="m").identity
    assert Vllm(model="m", flags={"tensor-parallel-size": 8}, concurrency=9).identity == plain
    assert Vllm(model="m", flags={"quantization": "fp8"}).identity != plain
    assert Vllm(model="m", dtype="float32").identity != plain
    assert os.environ["BEZOAR_VLLM"] not in plain
