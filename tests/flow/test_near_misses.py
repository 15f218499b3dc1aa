"""Names and tables that are nearly right lead to what is."""

from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.recipe import load_recipe
from bezoar.train.objectives import OBJECTIVES
from tests.helpers.command import refused

START = """name: t
models:
  b: {path: x}
stages:
  s: {kind: dolly, path: "bezoar:instructions.jsonl"}
"""


def told(folder: Path, more: str, start: str = START) -> str:
    path = folder / "r.yaml"
    path.write_text(start + more, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    return str(error.value)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_in_place_of_a_stage(name: str, tmp_path: Path) -> None:
    said = told(tmp_path, f"  t: {{kind: {name}, model: b, rows: s}}\n")
    assert f"write `kind: train` and `objective: {{kind: {name}}}`" in said
    assert ":6: stages.t: unknown kind" in said


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_is_no_table(name: str, tmp_path: Path) -> None:
    said = told(tmp_path, f"  t: {{kind: train, model: b, rows: s, objective: {name}}}\n")
    assert ":6: stages.t.objective: a kind stands in a table; " in said
    assert f"; write `objective: {{kind: {name}}}`." in said


def test_other_tables_and_words_that_are_no_kind(tmp_path: Path) -> None:
    assert "write `template: {kind: chatml}`" in told(tmp_path, "template: chatml\n")
    said = told(tmp_path, "  t: {kind: train, model: b, rows: s, objective: magic}\n")
    assert 'must be an object but is "magic"' in said


def test_a_stage_is_not_offered_to_itself(tmp_path: Path) -> None:
    stage = "  dpo: {kind: train, model: %s, rows: s, objective: {kind: sft}}\n"
    assert "the model names are b." in told(tmp_path, stage % "zzz")
    assert "did you mean" not in told(tmp_path, stage % "dpoo")
    start = START.replace("models:\n  b: {path: x}\n", "")
    assert "the model names are none; add one." in told(tmp_path, stage % "zzz", start)


def test_which_kinds_give_comparisons(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "r.yaml"
    stage = "  t: {kind: train, model: b, rows: s, objective: {kind: dpo}}\n"
    path.write_text(START.replace("path: x", f"path: {tiny_model}") + stage)
    said = refused("plan", path)
    assert "s gives chats, and dpo needs comparisons; add a stage that gives them" in said
    assert "best_of_n or attribute_pairs" in said


def test_the_whole_budget(tmp_path: Path) -> None:
    assert "did you mean budget_usd?" in told(tmp_path, "budget: 3\n")
