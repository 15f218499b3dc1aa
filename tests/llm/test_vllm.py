"""Servers that are started and stopped: a process that speaks as vLLM does (helpers/fake_vllm)."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.errors import EndpointError, RecipeError, UnfinishedError
from bezoar.llm.budget import Budget
from bezoar.llm.engine import Drawn, Engine, EngineBackend, difference
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.servers import Servers, command_line
from bezoar.llm.vllm import Vllm
from bezoar.model.spec import ModelSpec
from bezoar.parquet import read_parquet
from bezoar.progress import Progress
from tests.helpers import command
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


def test_more_room_is_another_question_and_more_memory_is_not() -> None:
    def identity(**flags: Any) -> str:
        named = {name.replace("_", "-"): value for name, value in flags.items()}
        return Vllm(model="some/model", flags=named).identity

    assert identity(max_model_len=512) != identity(max_model_len=8192)
    assert identity(max_num_seqs=8) == identity(gpu_memory_utilization=0.5) == identity()


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


def engine(servers: Servers, model: Path, *adapters: Path, **more: Any) -> EngineBackend:
    spec = ModelSpec(str(model), dtype="float32")
    return EngineBackend(Engine(**more), (spec, adapters), ChatML(), servers, rank=20)


def test_a_model_of_the_recipe_is_sent_tokens_and_its_adapter_by_name(
    tmp_path: Path, tiny_model: Path
) -> None:
    how: dict[str, Any] = {"temperature": 0.5, "top_k": 3, "max_tokens": 50, "seed": 4}
    asked = [question("hi", stop=("!",), **how), question("hi", prefill="I", max_tokens=5)]
    (tmp_path / "adapter_config.json").write_text("{}")
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        backend = engine(servers, tiny_model, tmp_path)
        replies = Pool(backend, journal, Budget(), Progress()).ask_all(asked)
        servers.unload_all()
        # another stage: the same server, and never the same name
        again = engine(servers, tiny_model, tmp_path, check=0)
        Pool(again, journal, Budget(), Progress()).ask_all([question("ho")])
    assert [(r.text, r.finish) for r in replies] == [("yes", "stop")] * 2
    arguments, *came = lines(tmp_path)
    assert "--enable-lora --max-lora-rank 32" in " ".join(arguments)
    assert [path for path, _ in came] == [
        *("/v1/load_lora_adapter", "/v1/completions", "/v1/completions"),
        *("/v1/unload_lora_adapter", "/v1/load_lora_adapter", "/v1/completions"),
    ]
    assert len({body["model"] for path, body in came if path == "/v1/completions"}) == 2
    tokenizer, template = backend.tokenizer, ChatML()
    by_seed = sorted((body for _, body in came[1:3]), key=lambda body: "seed" in body)
    assert by_seed[1]["prompt"] == template.prompt(asked[0].messages, tokenizer)
    assert by_seed[0]["prompt"] == template.prompt(asked[1].messages, tokenizer, prefill="I")
    assert by_seed[1]["top_k"] == 3
    assert by_seed[1]["stop"] == ["!", *template.stops()]
    # no more than the context of 64 tokens leaves
    assert by_seed[1]["max_tokens"] == 64 - len(by_seed[1]["prompt"])
    assert by_seed[1]["stop_token_ids"] == [259, 259]
    assert [d.logprobs for d in backend.drawn] == [[-0.5] * 4] * 2
    assert not again.drawn


def test_choices_are_told_apart_by_the_sums_of_their_tokens(
    tmp_path: Path, tiny_model: Path
) -> None:
    asked = question("hi", choices=("no", "yes"))
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        backend = engine(servers, tiny_model)
        [reply] = Pool(backend, journal, Budget(), Progress()).ask_all([asked])
    num = len(ChatML().prompt(asked.messages, backend.tokenizer))
    assert reply.text == "no"
    assert reply.logprobs == (-2.0 * (num + 2), -3.0 * (num + 3))


def test_how_far_an_engine_is_from_training_is_worked_by_hand() -> None:
    drawn = [Drawn([1], [2, 3], [-1.0, -2.0]), Drawn([1], [4], [-0.5])]
    found = difference(drawn, [[-1.0, -2.2], [-0.5 + math.log(2)]])
    # r = 1, exp(-0.2) and 2; r - 1 - log r
    kls = [0.0, math.exp(-0.2) - 1 + 0.2, 1 - math.log(2)]
    assert found["kl_mean"] == pytest.approx(sum(kls) / 3, abs=1e-7)
    assert found["kl_max"] == pytest.approx(kls[2], abs=1e-7)
    assert found["ratio_outside"] == pytest.approx(2 / 3, abs=1e-7)
    assert found["tokens"] == 3


RECIPE = """
name: drawn
seed: 3
models: {{base: {{path: "{model}", dtype: float32}}}}
engine: {{kind: vllm, flags: {{max-num-seqs: 4}}{more}}}
stages:
  seeds: {{kind: dolly, path: "bezoar:instructions.jsonl", held_out: 0.1}}
  drawn: {{kind: sample, seeds: seeds.held_out, model: base, n: 2, answers: {{max_tokens: 5}}}}
"""


def test_a_recipe_samples_by_its_engine(tmp_path: Path, roomy_model: Path) -> None:
    recipe, run = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(RECIPE.format(model=roomy_model, more=", check: 3"))
    ended = command.bezoar("run", recipe, "--out", run)
    assert "the engine differs from training by" in ended
    rows = list(read_parquet(next(run.glob("*-drawn")) / "rows.parquet"))
    assert {tuple(row["answers"]) for row in rows} == {("yes", "yes")}
    stats = json.loads((next(run.glob("*-drawn")) / "stats.json").read_text())
    assert stats["engine"]["base"]["tokens"] == 3 * 4
    key = json.loads((next(run.glob("*-drawn")) / "key.json").read_text())
    assert key["parts"]["engine"] == '["vllm", {}]'
    assert not running(next(run.glob("vllm-*.log")))


@pytest.mark.real
def test_a_rehearsal_starts_no_engine(
    tmp_path: Path, roomy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(model=roomy_model, more=""))
    monkeypatch.setenv("BEZOAR_VLLM", "/bin/false")
    assert "first fault" not in command.bezoar("rehearse", recipe)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("dtype: float32", "quantize: nf4", "quantize"),
        ("dtype: float32", 'add_tokens: ["<a>"]', "add_tokens"),
        ("kind: sample", "kind: dedup", "kind"),
        ("max-num-seqs", "port", "port is set by bezoar"),
    ],
)
def test_an_engine_that_computes_otherwise_is_refused(
    tmp_path: Path, tiny_model: Path, old: str, new: str, told: str
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, more="").replace(old, new))
    assert told in command.refused("plan", recipe)


def test_without_vllm_it_says_how_to_install(vllm: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vllm.setenv("BEZOAR_VLLM", str(tmp_path / "absent"))
    with pytest.raises(RecipeError, match="pip install vllm"):
        Servers(tmp_path).get("m", [], 1, print)


def test_a_recipe_whose_engine_is_not_there_is_refused_before_it_runs(
    vllm: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    vllm.setenv("BEZOAR_VLLM", str(tmp_path / "absent"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, more=""))
    told = command.refused("run", recipe, "--out", tmp_path / "run")
    assert f"{recipe}:5: " in told
    assert "pip install vllm" in told
    assert not list((tmp_path / "run").glob("*-*"))


def test_flags_become_arguments_and_those_of_ours_are_refused() -> None:
    assert command_line({"a": True, "b": False, "c": 2, "d": {"e": 1}}) == [
        *("--a", "--no-b", "--c", "2", "--d", '{"e": 1}')
    ]
    ours = ("port", "api-key", "logprobs-mode", "generation-config")
    for flags in ({"--max-model-len": 1}, *({name: "x"} for name in ours)):
        with pytest.raises(ValueError):
            Vllm(model="m", flags=flags)


def test_what_says_where_it_runs_is_no_part_of_its_identity() -> None:
    plain = Vllm(model="m").identity
    assert Vllm(model="m", flags={"tensor-parallel-size": 8}, concurrency=9).identity == plain
    assert Vllm(model="m", flags={"quantization": "fp8"}).identity != plain
    assert Vllm(model="m", dtype="float32").identity != plain
    assert os.environ["BEZOAR_VLLM"] not in plain
