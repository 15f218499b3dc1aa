"""Finished evaluations by the names of their models."""

from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.evals.finished import finished_pair
from tests.helpers.command import bezoar
from tests.helpers.small_run import SmallRun, hits


def run_of(path: Path) -> SmallRun:
    run = SmallRun(path)
    for name, num in (("dpo", 30), ("simpo", 10)):
        run.train(name, "base", name)
        same = {"conditions": {"quiz/acc": {"items": "a"}}}
        run.evaluate(name, {"quiz/acc": hits(num, 40)}, info={"quiz": same})
    return run


def test_two_models_of_a_run_are_compared_by_their_evaluations(tmp_path: Path) -> None:
    path = run_of(tmp_path / "r").path
    said = bezoar("compare", f"{path}:dpo", f"{path}:simpo")
    assert "0.750 → 0.250" in said
    assert "worse" in said
    folders = finished_pair(f"{path}:simpo", f"{path}:eval-dpo")
    assert [folder.name for folder in folders] == ["04-eval-simpo", "02-eval-dpo"]
    assert finished_pair(str(folders[0]), f"{path}:dpo") == folders


def test_what_was_not_evaluated_needs_a_judge(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r")
    assert finished_pair(f"{run.path}:dpo", f"{run.path}:new") == []
    assert finished_pair("gpt", "a.jsonl") == []
    run.evaluate("dpo", {"quiz/acc": hits(20, 40)})
    with pytest.raises(
        RecipeError, match=r"several finished .*02-eval-dpo, .*04-eval-dpo; .*name two"
    ):
        finished_pair(f"{run.path}:dpo", f"{run.path}:simpo")
