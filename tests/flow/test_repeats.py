"""`repeats:`: training and evaluation with several seeds, rows made and paid once."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.recipe import Recipe, load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_json
from tests.helpers.command import bezoar
from tests.helpers.server import Server, answer, serving

RECIPE = """
name: small
seed: 5
models: {base: {path: MODEL, dtype: float32}}
backends: {judge: {kind: endpoint, url: "URL", model: m, key_env: SOME_KEY}}
stages:
  rows: {kind: jsonl, path: rows.jsonl}
  kept: {kind: filter, rows: rows, judge: judge, rubric: rubric.txt}
  pairs: {kind: hh_rlhf, path: "bezoar:preferences_test.jsonl", limit: 6}
  sft: &sft {kind: train, model: base, rows: kept, objective: {kind: sft}, lr: 0.02, max_steps: 2, validation: 0}
  dpo: {<<: *sft, model: sft, rows: pairs, objective: {kind: dpo}}
  drawn: {kind: sample, seeds: rows, model: sft, n: 2, answers: {max_tokens: 4}}
  eval-base: &eval {kind: evaluate, model: base, preferences: {rows: pairs}}
  eval-dpo: {<<: *eval, model: dpo, preferences: {rows: pairs, reference: sft}}
"""  # noqa: E501
SEEDED = ["sft", "dpo", "drawn", "eval-dpo"]


def write(folder: Path, model: Path | str, url: str, repeats: str) -> Recipe:
    text = RECIPE.replace("MODEL", str(model)).replace("URL", url)
    (folder / "recipe.yaml").write_text(f"{text}\n{repeats}\n")
    return load_recipe(folder / "recipe.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"prompt": f"Say {i}?", "response": f"It is {i}."} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rubric.txt").write_text("Accept or Reject?\n{record}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_KEY", "a-key-of-some-length")
    return tmp_path


@pytest.fixture
def server() -> Any:
    with serving(lambda body, seen: answer("Accept: fine")) as judge:
        yield judge


def weights(run: RunDir, stage: str) -> bytes:
    return (run.output_dir(stage) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_training_and_evaluation_repeat_and_rows_are_made_once(
    tiny_model: Path, folder: Path, server: Server
) -> None:
    # 1) without repeats, then with them: what is there is kept
    once, run = write(folder, tiny_model, server.url, ""), RunDir(folder / "runs" / "small")
    assert list(run_recipe(once, run)) == list(once.stages)
    seeds = {name: run.stored(name)["key"] for name in once.stages}
    first = weights(run, "dpo")
    done = run_recipe(write(folder, tiny_model, server.url, "repeats: 3"), run)
    assert list(done) == [f"{name}.seed{seed}" for seed in (6, 7) for name in SEEDED]
    assert {name: run.stored(name)["key"] for name in once.stages} == seeds
    assert sum(server.seen.values()) == 6  # the judge was asked once a row
    # 2) every seed is a model of its own, on a stack of its own
    assert len({weights(run, name) for name in ("dpo", "dpo.seed6", "dpo.seed7")}) == 3
    assert weights(run, "dpo") == first
    recipe = load_recipe(folder / "recipe.yaml")
    _, adapters = run.model(recipe, "dpo.seed7")
    assert [path.parent.name.partition("-")[2] for path in adapters] == ["dpo.seed7"]
    assert run.stored("dpo.seed7")["inputs"]["model"] == "sft.seed7"
    assert run.stored("eval-dpo.seed6")["inputs"]["preferences.reference"] == "sft.seed6"
    assert run.stored("eval-dpo.seed6")["parts"]["seed"] == "5"  # measured with the same draws
    # 3) a seed of the repeats alone gives the same weights
    other = write(folder, tiny_model, server.url, "").path.read_text().replace("seed: 5", "seed: 6")
    other = other.partition("  dpo:")[0]
    (folder / "other.yaml").write_text(other.replace("name: small", "name: other"))
    alone = RunDir(folder / "runs" / "other")
    run_recipe(load_recipe(folder / "other.yaml"), alone)
    assert weights(alone, "sft") == weights(run, "sft.seed6")


def test_report_and_terminal_show_the_spread(
    tiny_model: Path, folder: Path, server: Server
) -> None:
    write(folder, tiny_model, server.url, "repeats: 3")
    plan = bezoar("plan", "recipe.yaml")
    assert "16 of 16 stages would run" in plan
    assert "3 seeds (5, 6, 7): once with each sft, dpo, drawn, eval-dpo" in plan
    told = bezoar("run", "recipe.yaml")
    assert "Over seeds 5, 6 and 7" in told
    page = (folder / "runs" / "small" / "report.html").read_text()
    assert 'id="seeds"' in page
    values = []
    for name in ("eval-dpo", "eval-dpo.seed6", "eval-dpo.seed7"):
        scores = read_json(RunDir(folder / "runs" / "small").output_dir(name) / "scores.json")
        values += [s["value"] for s in scores["scores"] if s["name"].endswith("over start margin")]
    assert len(values) == 3
    from bezoar.report.formatting import number

    mean, lowest = sum(values) / 3, min(values)
    line = next(line for line in told.splitlines() if "over start margin: dpo" in line)
    assert number(mean) in line
    assert number(lowest) in line
    board = bezoar("leaderboard", "runs/small")
    assert "seed6" not in board
    assert f"{number(mean)}" in board


@pytest.mark.parametrize(
    ("repeats", "what"),
    [
        ("repeats: 0", "greater than or equal to 1"),
        ("repeats: 101", "less than or equal to 100"),
        ("repeats: two", "repeats"),
    ],
)
def test_a_number_of_seeds_that_cannot_be(repeats: str, what: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=what) as told:
        write(folder, "m", "http://x/v1", repeats)
    assert "recipe.yaml:" in str(told.value)


def test_repeats_that_measure_nothing_are_refused(folder: Path) -> None:
    text = RECIPE.split("  drawn:")[0].replace("MODEL", "m").replace("URL", "http://x/v1")
    (folder / "recipe.yaml").write_text(text + "repeats: 2\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: repeats: nothing that is trained is"):
        load_recipe(folder / "recipe.yaml")
