"""Trained stages that another run of the folder has under the same key."""

import json
import shutil
from pathlib import Path

import pytest

from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.stage import Stats
from tests.helpers.command import bezoar

RECIPE = """
name: NAME
models: {base: {path: MODEL, dtype: float32}}
stages:
  rows: {kind: jsonl, path: rows.jsonl}
  STAGE: {kind: train, model: base, rows: rows, objective: {kind: sft}, lr: 0.02, max_steps: 2, validation: 0}
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    rows = [{"prompt": f"Say {i}?", "response": f"It is {i}."} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").symlink_to(tiny_model)
    return tmp_path


def recipe(folder: Path, name: str, stage: str = "sft", lr: str = "0.02") -> Path:
    text = RECIPE.replace("NAME", name).replace("STAGE", stage).replace("0.02", lr)
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("MODEL", str(folder / "model")))
    return path


def run(folder: Path, name: str, stage: str = "sft", lr: str = "0.02") -> dict[str, Stats]:
    path = recipe(folder, name, stage, lr)
    return run_recipe(load_recipe(path), RunDir(folder / "runs" / name))


def weights(folder: Path, name: str, stage: str = "sft") -> Path:
    place = RunDir(folder / "runs" / name).output_dir(stage)
    return place / "adapter" / "adapter_model.safetensors"


def losses(folder: Path, name: str, stage: str) -> list[float]:
    """Those of the steps of a stage in metrics.jsonl."""
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if line["stage"] == stage and "loss" in line]
    return [line["loss"] for line in found]


def test_the_same_key_is_taken_and_either_run_can_go(folder: Path) -> None:
    assert "taken_from" not in run(folder, "one")["sft"]
    before = weights(folder, "one").read_bytes()
    path = recipe(folder, "two", "mine")
    said = bezoar("plan", path, "--out", folder / "runs" / "two")
    assert "two: 1 of 2 stages would run" in said
    assert "mine: taken from one/02-sft, which has the same key" in said
    # the name of the stage is no part of the key
    taken = run(folder, "two", "mine")["mine"]
    assert taken["taken_from"] == str(folder / "runs" / "one" / "02-sft")
    assert weights(folder, "two", "mine").samefile(weights(folder, "one"))  # takes no space
    assert RunDir(folder / "runs" / "two").stored("mine")["stage"] == "mine"
    assert losses(folder, "two", "mine") == losses(folder, "one", "sft") != []
    shutil.rmtree(folder / "runs" / "one")
    assert weights(folder, "two", "mine").read_bytes() == before
    assert run(folder, "two", "mine") == {}


def test_another_key_or_damaged_weights_are_not_taken(folder: Path) -> None:
    run(folder, "one")
    assert "taken_from" not in run(folder, "two", lr="0.03")["sft"]
    whole = weights(folder, "one").read_bytes()
    weights(folder, "one").write_bytes(whole[:-8])
    assert "taken_from" not in run(folder, "three")["sft"]
    assert weights(folder, "three").read_bytes() == whole
    assert run(folder, "four")["sft"]["taken_from"].endswith("three/02-sft")
