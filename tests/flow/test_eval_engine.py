"""`bezoar eval --engine` with what starts, answers and ends as vLLM does."""

import json
from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.eval_engine import with_engine
from bezoar.flow.model_argument import ModelArgument
from bezoar.io import read_json
from bezoar.model.spec import ModelSpec
from tests.helpers.command import bezoar, refused

FAKE = Path(__file__).parents[1] / "helpers" / "fake_vllm.py"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEZOAR_VLLM", str(FAKE))
    monkeypatch.setenv("BEZOAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_WORDS", "pear")
    # a judge who has read the words of the engine
    rules = [("pear", "Rating: [[9]]"), (".", "Rating: [[1]]")]
    script = [{"pattern": pattern, "reply": reply} for pattern, reply in rules]
    (tmp_path / "judge.jsonl").write_text("\n".join(map(json.dumps, script)))
    (tmp_path / "engine.yaml").write_text("kind: vllm\nflags: {max-model-len: 8192}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_answers_of_an_evaluation_are_the_engines(place: Path, roomy_model: Path) -> None:
    asked = ("eval", roomy_model, "--mt-bench", "--judge", "judge.jsonl", "--limit", 1)
    how = ("--template", "chatml", "--dtype", "float32", "--max-tokens", 4)
    bezoar(*asked, *how, "--out", "there", "--engine", "engine.yaml")
    bezoar(*asked, *how, "--out", "here")
    there, here = (read_json(place / name / "scores.json") for name in ("there", "here"))
    assert {score["value"] for score in there["scores"] if score["value"] is not None} >= {9.0}
    assert {score["value"] for score in here["scores"] if score["value"] is not None} >= {1.0}
    assert there["key"] != here["key"]
    [log] = (place / "cache" / "servers").glob("*.log")
    assert '"--max-model-len", "8192"' in log.read_text()
    # all is known now, and nothing is started
    log.unlink()
    bezoar(*asked, *how, "--out", "there", "--engine", "engine.yaml")
    assert not log.exists()


def test_an_engine_without_effect_is_refused(place: Path, roomy_model: Path) -> None:
    no = refused("eval", roomy_model, "--ifeval", "x.jsonl", "--engine", "trt")
    assert "--engine trt: no such engine; write --engine vllm" in no
    no = refused("eval", "m@http://127.0.0.1:9/v1", "--ifeval", "x.jsonl", "--engine", "vllm")
    assert "no model here has weights" in no
    no = refused("eval", roomy_model, "--tasks", "arc_easy", "--engine", "vllm")
    assert "lm_eval are computed in this process; remove --engine" in no
    how = ("--reference", roomy_model, "--engine", "vllm")
    no = refused("eval", roomy_model, "--pairs", "bezoar:preferences_test.jsonl", *how)
    assert "are computed in this process; remove --engine" in no
    four = ModelArgument("m", spec=ModelSpec(str(roomy_model), quantize="nf4"))
    with pytest.raises(RecipeError, match="m has a base in 4 bits, which it cannot take"):
        with_engine({"m": four}, "vllm")
