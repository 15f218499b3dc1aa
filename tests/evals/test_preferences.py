"""What was learnt from pairs: the implicit reward over the start model and over the stack below."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bezoar.evals.outcome import read_items, read_scores
from bezoar.evals.preferences import BY_DEFINITION
from bezoar.evals.stats import Score
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.model.stack import Stack
from bezoar.report.load_scores import load_scoreboard
from bezoar.report.run import load_run
from bezoar.report.scoreboard import Scoreboard

START = "preferences/implicit reward over start"
BELOW = "preferences/implicit reward over the stack below"
RECIPE = """\
name: tiny
models:
  base: {{path: {model}, dtype: float32}}
stages:
  pairs: {{kind: hh_rlhf, path: "bezoar:preferences_train.jsonl", limit: 12}}
  held-out: {{kind: hh_rlhf, path: "bezoar:preferences_test.jsonl", limit: 9}}
  sft: &sft
    kind: train
    model: base
    rows: pairs
    objective: {{kind: sft}}
    lr: 5e-3
    max_steps: 2
    batch_size: 4
    validation: 0.0
    max_length: 4096
  orpo: {{<<: *sft, model: sft, objective: {{kind: orpo}}}}
  dpo: {{<<: *sft, model: orpo, objective: {{kind: dpo}}}}
  eval-base: {{kind: evaluate, model: base, preferences: {{rows: held-out}}}}
  eval-sft: {{kind: evaluate, model: sft, preferences: {{rows: held-out}}}}
  eval-dpo: {{kind: evaluate, model: dpo, preferences: {{rows: held-out, beta: 0.5}}}}
  eval-named: {{kind: evaluate, model: orpo, preferences: {{rows: held-out, reference: base}}}}
"""


@pytest.fixture(scope="module")
def run(roomy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; base, SFT, ORPO, then DPO."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=roomy_model))
    run_recipe(load_recipe(folder / "recipe.yaml"), RunDir(folder / "runs" / "tiny"))
    return folder / "runs" / "tiny"


def stage(run: Path, name: str) -> Path:
    return next(path for path in run.iterdir() if path.name.endswith(f"-{name}"))


def names(run: Path, name: str) -> list[str]:
    return [score.name for score in read_scores(stage(run, name))["scores"]]


def margins(run: Path, name: str, benchmark: str) -> dict[str, float]:
    items = read_items(stage(run, name))
    return {i["id"]: i["value"] for i in items if i["benchmark"] == f"{benchmark} margin"}


def sums(run: Path, model: str) -> dict[str, tuple[float, float]]:
    """Log-probabilities of (chosen, rejected) of every held-out pair, each answer by itself."""
    from bezoar.chat.types import Comparison
    from bezoar.model.completions import completion_logprobs

    recipe = load_recipe(run / "recipe.yaml")
    found = RunDir(run)
    stack = Stack(*found.model(recipe, model))
    table = {}
    for pair in found.items("held-out"):
        assert isinstance(pair, Comparison)
        alone = [
            completion_logprobs(stack, recipe.template, [pair.prompt], [[answer]])[0][0]
            for answer in (pair.chosen, pair.rejected)
        ]
        table[pair.id] = (alone[0], alone[1])
    return table


def test_the_reward_is_over_the_start_model_and_over_the_model_that_training_began_with(
    run: Path,
) -> None:
    base, orpo, dpo = (sums(run, name) for name in ("base", "orpo", "dpo"))
    for benchmark, reference in ((START, base), (BELOW, orpo)):
        found = margins(run, "eval-dpo", benchmark)
        assert len(found) == 9
        for item, value in found.items():
            (ours, our_rejected), (theirs, their_rejected) = dpo[item], reference[item]
            expected = 0.5 * ((ours - theirs) - (our_rejected - their_rejected))
            assert value == pytest.approx(expected, abs=2e-4)
    facts = read_scores(stage(run, "eval-dpo"))["info"]["preferences"]
    assert facts["references"] == {START: "base", BELOW: "orpo"}
    ours, theirs = (facts["conditions"][name]["reference"] for name in (START, BELOW))
    assert ours != theirs


def test_one_set_of_scores_where_the_stack_below_is_the_start_model(run: Path) -> None:
    found = names(run, "eval-sft")
    assert found[:2] == [f"{START} accuracy", f"{START} margin"]
    assert not [name for name in found if name.startswith(BELOW)]


def test_a_named_reference_takes_the_place_of_the_stack_below(run: Path) -> None:
    found = names(run, "eval-named")
    assert found[:4:2] == [f"{START} accuracy", "preferences/implicit reward accuracy"]
    assert not [name for name in found if name.startswith(BELOW)]
    named = margins(run, "eval-named", "preferences/implicit reward")
    assert named == margins(run, "eval-named", START)


def test_the_start_model_over_itself_is_a_tie_by_definition(run: Path) -> None:
    accuracy, margin, *_ = read_scores(stage(run, "eval-base"))["scores"]
    assert (accuracy.name, accuracy.value, accuracy.n) == (f"{START} accuracy", 0.5, 9)
    assert (margin.value, margin.low, margin.high) == (0.0, None, None)
    assert (accuracy.low, accuracy.high, accuracy.reason) == (None, None, BY_DEFINITION)
    items = read_items(stage(run, "eval-base"))
    assert {i["value"] for i in items if i["benchmark"] == accuracy.name} == {0.5}


def test_stages_are_compared_by_their_reward_over_the_start_model(run: Path) -> None:
    board = load_scoreboard(load_run(run))
    assert board.main == [f"{START} accuracy", f"{START} margin"]
    difference = board.against(f"{START} accuracy", "base")["sft"]
    right = [value > 0 for value in margins(run, "eval-sft", START).values()]
    assert (difference.n, difference.difference) == (9, pytest.approx(sum(right) / 9 - 0.5))
    # another beta makes other margins, and the same accuracies
    assert board.against(f"{START} accuracy", "sft").keys() == {"base", "orpo", "dpo"}
    assert board.against(f"{START} margin", "sft").keys() == {"base", "orpo"}


def test_a_score_that_no_model_was_measured_on_does_not_lead() -> None:
    tied = Score(f"{START} accuracy", 0.5, None, None, 9, reason=BY_DEFINITION)
    plain = Score("preferences/log-prob accuracy", 0.4, 0.2, 0.6, 9)
    cells = {(score.name, "base"): score for score in (tied, plain)}
    assert Scoreboard({"base": "base"}, cells).main == ["preferences/log-prob accuracy"]
    cells[tied.name, "dpo"] = replace(tied, low=0.4, high=0.6, reason="")
    assert Scoreboard({"base": "base", "dpo": "dpo"}, cells).main == [f"{START} accuracy"]


def test_likelihoods_are_computed_once_a_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    original = Stack.__init__

    def noted(self: Any, spec: Any, adapters: Any = (), **options: Any) -> None:
        opened.append("+".join(["base", *(Path(a).parent.name[3:] for a in adapters)]))
        original(self, spec, adapters, **options)

    monkeypatch.setattr(Stack, "__init__", noted)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert len(list((copy / ".shared").glob("logprobs-*.json"))) == 4  # base, sft, orpo, dpo
    # scored again for another beta: only the evaluated model itself is opened
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("beta: 0.5", "beta: 0.25"))
    done = run_recipe(load_recipe(recipe), RunDir(copy))
    assert list(done) == ["eval-dpo"]
    assert opened == ["base+dpo"]  # one folder holds the whole stack
