"""Answers in training by an engine: a fake server's, and numbers by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Message
from bezoar.errors import EndpointError, RecipeError, UnfinishedError
from bezoar.flow.cache_key import all_keys
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.llm.engine import Engine
from bezoar.llm.rollouts import EngineRollouts
from bezoar.llm.servers import Servers
from bezoar.model.prompt_group import answer
from bezoar.model.sampling import SamplingParams
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.engine_gap import beside_engine
from bezoar.train.rollout import Prompt, Rollout, RolloutScores
from bezoar.train.settings import StageInputs
from tests.train.test_grpo import ROWS, SMALL

FAKE = Path(__file__).parents[1] / "helpers" / "fake_vllm.py"
BY_ENGINE = replace(SMALL, rollouts="engine", updates=3, epochs=2)


def test_the_difference_and_the_truncated_ratio_by_hand() -> None:
    prompt = Prompt("p", (Message("user", "x"),), [1], [])
    # of the second answer the first token was given
    rollouts = [
        Rollout(prompt, answer([1], [5, 6]), 0, True, (-1.0, -2.0)),
        Rollout(prompt, answer([1], [7, 8]), 1, True, (-1.0,)),
    ]
    logprobs = torch.tensor([[-1.0, -1.0], [-9.0, -1.5]])
    mask, free = torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    lengths = torch.tensor([2, 2])
    old = RolloutScores(logprobs, logprobs, logprobs, mask, free, lengths, 0.0)
    gains, returns = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2)
    # log-ratios 0, 1 and -.5, each r - 1 - log r; r is outside of [.9, 1.1] twice
    kls = [0.0, math.e - 2, math.exp(-0.5) - 0.5]
    plain = replace(BY_ENGINE, ratio_cap=None)
    found, targets = beside_engine(plain, rollouts, old, [gains, returns])
    assert found["engine_kl"] == pytest.approx(sum(kls) / 3)
    assert found["engine_kl_max"] == pytest.approx(max(kls))
    assert found["engine_ratio_outside"] == pytest.approx(2 / 3)
    assert targets == [gains, returns]
    capped = replace(BY_ENGINE, ratio_cap=2.0)
    _, targets = beside_engine(capped, rollouts, old, [gains, returns])
    # 1, e cut to 2, what was given as it is, e^-.5
    assert targets[0].flatten().tolist() == pytest.approx([1.0, 4.0, 3.0, 4 * math.exp(-0.5)])
    assert targets[1] is returns
    assert beside_engine(SMALL, rollouts, old, [gains]) == ({}, [gains])


def fitted(
    settings: Any, spec: ModelSpec, folder: Path, rows: Any = ROWS, reward: Any = None
) -> list[Any]:
    """What was logged, with one server for all updates."""
    folder.mkdir(parents=True)
    progress = Progress("s", folder / "metrics.jsonl")
    with Servers(folder) as servers:
        engine = EngineRollouts(Engine(flags=FLAGS), servers, print)
        places = folder / "w", folder / "o"
        inputs = StageInputs(spec, [], ChatML(), *places, reward=reward, engine=engine)
        settings.fit(rows, inputs, progress=progress, seed=3)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "engine_kl" in line]


FLAGS = {"max-model-len": 512, "enforce-eager": True, "max-num-seqs": 16}


def test_every_update_draws_with_an_adapter_of_its_own(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.setenv("FAKE_WORDS", "0 1 2 3")
    spec, weights = ModelSpec(str(tiny_model), dtype="float32"), []
    for cap in (None, 2.0):
        folder = tmp_path / str(cap)
        lines = fitted(replace(BY_ENGINE, ratio_cap=cap), spec, folder)
        assert len(lines) == 3
        # the fake says -.5 for every token, and a random model far less
        assert lines[0]["engine_kl"] > 1
        [log] = folder.glob("vllm-*.log")
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert "--logprobs-mode processed_logprobs" in " ".join(told[0])
        asked = [(path, body) for path, body in (line for line in told if len(line) == 2)]
        names = [b["lora_name"] for path, b in asked if path.endswith("/load_lora_adapter")]
        gone = [b["lora_name"] for path, b in asked if path.endswith("unload_lora_adapter")]
        drawn = [body["model"] for path, body in asked if path == "/v1/completions"]
        assert len({*names}) == 3
        assert gone == names[:2]
        assert drawn == [name for name in names for _ in range(8)]
        weights.append(load_file(folder / "o" / "adapter" / "adapter_model.safetensors"))
    assert any(not torch.equal(x, weights[1][name]) for name, x in weights[0].items())


def test_an_engine_that_ends_says_so(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.setenv("FAKE_VLLM", "3")
    spec = ModelSpec(str(tiny_model), dtype="float32")
    ended = r"does not answer: it has ended .*out of memory.* run the same command to go on"
    with pytest.raises(UnfinishedError, match=ended):
        fitted(BY_ENGINE, spec, tmp_path / "run")


def test_a_request_without_an_answer_is_sent_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    busy, cut, lost = [503, "busy"], [200, '{"choices": ['], None
    null = json.dumps({"choices": [{"token_ids": [1], "logprobs": None}]})
    odd = [[200, "{}"], [200, "[]"], [200, '{"choices": []}'], [200, null]]
    faults = [busy, cut, lost, True, *odd, [400, "too long"], *[busy] * 4, *[cut] * 4]
    monkeypatch.setenv("FAKE_FAULTS", json.dumps(faults))
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(SMALL.adapter, seed=1)
    params = [SamplingParams(5, 0.7, stop_tokens=(259,), seed=0)]
    with Servers(tmp_path) as servers:
        engine = EngineRollouts(Engine(flags=FLAGS), servers, print)
        engine.refresh(stack, tmp_path / "adapter", 0)
        # of four sendings the last is answered
        assert engine.draw([[1, 2]], params)[0].finish == "stop"
        for _ in odd:
            with pytest.raises(EndpointError, match="vLLM gave no tokens with log-prob") as error:
                engine.draw([[1, 2]], params)
            assert not isinstance(error.value, UnfinishedError)
        with pytest.raises(EndpointError, match="does not answer: too long") as error:
            engine.draw([[1, 2]], params)
        assert not isinstance(error.value, UnfinishedError)
        for what in ("busy", "broken JSON"):
            with pytest.raises(UnfinishedError, match=f"{what}.* run the same command to go on"):
                engine.draw([[1, 2]], params)


def test_a_prompt_that_the_engine_has_no_room_for_is_refused_first(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.setitem(FLAGS, "max-model-len", 60)
    spec = ModelSpec(str(tiny_model), dtype="float32")
    with pytest.raises(RecipeError, match=r"take up to \d+ tokens, and vLLM 60; .*max-model-len"):
        fitted(BY_ENGINE, spec, tmp_path / "run")
    assert '"/v1/completions"' not in next((tmp_path / "run").glob("vllm-*.log")).read_text()


def test_an_engine_that_cannot_draw_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a", "answer": "b", "number": 1}\n')
    recipe = (
        f"name: r\nENGINE\nLAUNCH\nmodels: {{base: {{path: {tiny_model}, dtype: float32}}}}\n"
        "stages:\n  rows: {kind: jsonl, path: chats.jsonl, response: answer}\n"
        "  t: {kind: grpo, model: base, rows: rows, rewards: [{kind: number}], rollouts: engine}\n"
    )
    path, vllm = tmp_path / "r.yaml", "engine: {kind: vllm}"
    for engine, where, fault in (
        ("", "", "stages.t.rollouts: the recipe has no engine"),
        (vllm, "launch: {kind: torchrun, processes: 2}", "stages.t.rollouts: an engine draws for"),
        (vllm, "launch: {kind: torchrun, processes: 1}", "stages.t.rollouts: an engine draws for"),
    ):
        path.write_text(recipe.replace("ENGINE", engine).replace("LAUNCH", where))
        with pytest.raises(RecipeError, match=fault):
            load_recipe(path)
    keys = set()
    for flags in ("", ", flags: {quantization: fp8}", ", flags: {max-num-seqs: 4}"):
        engine = f"engine: {{kind: vllm{flags}}}"
        path.write_text(recipe.replace("ENGINE", engine).replace("LAUNCH", ""))
        keys.add(all_keys(load_recipe(path))[0]["t"])
    # what may change an answer makes another training, and room does not
    assert len(keys) == 2
    with pytest.raises(ValueError, match="ratio_cap has no effect on answers drawn here"):
        replace(SMALL, ratio_cap=2.0)


def test_a_recipe_trains_on_what_its_engine_draws(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.setenv("FAKE_WORDS", "a A")
    keys = "batch_size: 4, samples: 4, updates: 2, max_tokens: 8, rollouts: engine, ratio_cap: 2"
    (tmp_path / "r.yaml").write_text(
        "name: r\ntemplate: {kind: chatml}\nengine: {kind: vllm, flags: {max-model-len: 512}}\n"
        f"models: {{base: {{path: {tiny_model}}}}}\nstages:\n"
        '  rows: {kind: instruction_prompts, topics: "bezoar:topics.txt", num_rows: 2,'
        " kinds: [lowercase]}\n  t: {kind: grpo, model: base, rows: rows,"
        f" rewards: [{{kind: instructions}}], {keys}}}\n"
    )
    run = RunDir(tmp_path / "run")
    stats = run_recipe(load_recipe(tmp_path / "r.yaml"), run)["t"]
    assert stats["engine_kl"] > 1
    [log] = run.path.glob("vllm-*.log")
    told = log.read_text()
    assert told.count('"/v1/load_lora_adapter"') == 2
    # one server, which has ended
    assert told.count("--max-lora-rank") == 1
