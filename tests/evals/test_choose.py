"""The choice among the checkpoints of a training."""

from pathlib import Path

import pytest

from bezoar.errors import DataError
from bezoar.evals.choose import Choose, normalised_means
from bezoar.evals.outcome import Outcome
from bezoar.evals.preferences import Preferences
from bezoar.evals.stats import Score
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_json
from bezoar.report import finish
from bezoar.terminal import Console
from tests.helpers.command import bezoar, refused

RECIPE = """
name: choice
models:
  base: {{path: "{model}"}}
stages:
  pairs: {{kind: hh_rlhf, path: "bezoar:preferences_train.jsonl", limit: 10}}
  held-out: {{kind: hh_rlhf, path: "bezoar:preferences_test.jsonl", limit: 6}}
  sft: {{kind: train, model: base, rows: pairs, objective: {{kind: sft}}, lr: {lr}, epochs: 2,
    batch_size: 4, keep: {keep}}}
  chosen: {{kind: choose, model: sft, checkpoints: 2, suites: {{pairs: ["{score}"]}},
    preferences: {{rows: held-out}}}}
  more: {{kind: train, model: chosen, rows: pairs, objective: {{kind: dpo}}, max_steps: 1}}
  after: {{kind: evaluate, model: chosen, preferences: {{rows: held-out}}}}
"""
SCORE = "preferences/log-prob per token margin"


def test_the_papers_epochs() -> None:
    """Hermes 3, arXiv 2408.11857, Table 2 (70B), whose third total is printed as 83.89."""
    suites = {
        "GPT4All": (76.85, 76.70, 76.59, 73.63),
        "AGIEval": (54.21, 56.10, 55.99, 54.00),
        "IFEval": (76.52, 78.92, 81.33, 86.61),
        "MT-Bench": (8.37, 8.59, 8.99, 8.67),
    }
    epochs = [{name: values[i] for name, values in suites.items()} for i in range(4)]
    totals = normalised_means(epochs)
    assert totals == pytest.approx([27.50, 63.65, 83.59, 37.09], abs=0.02)
    assert max(totals) == totals[2]
    assert normalised_means([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 3.0}]) == [0.0, 50.0]


def written(folder: Path, model: Path, keep: str = "all") -> Path:
    path = folder / "choice.yaml"
    path.write_text(RECIPE.format(model=model, keep=keep, lr=0.03, score=SCORE))
    return path


def test_the_best_checkpoint_is_what_others_read(roomy_model: Path, tmp_path: Path) -> None:
    recipe, run = load_recipe(written(tmp_path, roomy_model)), RunDir(tmp_path / "runs" / "choice")
    stats = run_recipe(recipe, run)["chosen"]
    table = stats["choice"]
    assert [row["checkpoint"] for row in table] == ["step-2", "step-4"]
    best = max(table, key=lambda row: row["pairs"])
    assert stats["chosen"] == best["checkpoint"]
    kept = run.output_dir("sft") / "checkpoints" / stats["chosen"]
    weights = "adapter/adapter_model.safetensors"
    assert (run.output_dir("chosen") / weights).read_bytes() == (kept / weights).read_bytes()
    # the same model, measured once as a checkpoint and once as the stage's result
    scores = read_json(run.output_dir("after") / "scores.json")["scores"]
    assert next(s["value"] for s in scores if s["name"] == SCORE) == best["pairs"]
    assert bezoar("export", run.path, "--model", "chosen", "--out", tmp_path / "out")
    finish(run.path, Console(quiet=True))
    assert "step-4" in (run.path / "report.html").read_text()


def test_what_cannot_be_chosen_is_told_before_the_run(roomy_model: Path, tmp_path: Path) -> None:
    told = refused("plan", written(tmp_path, roomy_model, keep="best"))
    assert "stages.chosen.model: sft keeps no checkpoints; name a training with `keep: all`" in told
    choose = Choose("sft", suites={"pairs": ("no such",)}, preferences=Preferences("held-out"))
    outcome = Outcome([Score(SCORE, 0.5, None, None, 2)])
    with pytest.raises(DataError, match=f"suites.pairs: there is no score no such; .* {SCORE}"):
        choose.suite_means(outcome)
