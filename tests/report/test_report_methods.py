"""Several models of one start: which is best, how many items tell, and whose examples stand."""

import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from bezoar.report.decision import decide
from bezoar.report.effects import main_effect
from bezoar.report.sections.examples import examples
from bezoar.report.sections.first_screen import first_screen
from bezoar.report.sections.scores import scores
from tests.helpers.fake_run import load
from tests.helpers.small_run import START, SmallRun, hits

MARGIN = START.replace("accuracy", "margin")


def methods(path: Path, **nums: int) -> SmallRun:
    """base and models of it with `nums` of 60 pairs right, each with its margins."""
    run = SmallRun(path)
    run.evaluate("base", {START: [0.5] * 60, MARGIN: [0.0] * 60})
    for name, num in nums.items():
        run.train(name, "base", name)
        right = hits(num, 60)
        run.evaluate(name, {START: right, MARGIN: [value - 0.5 for value in right]})
    return run


def test_methods_that_cannot_be_told_apart_and_the_corrected_p(tmp_path: Path) -> None:
    decision = decide(*load(methods(tmp_path / "r", dpo=38, asft=32, simpo=34).path))
    # 38 of 60 against one half, both ways, is the smallest of three p: Holm takes it three times
    own = 2 * sum(math.comb(60, k) for k in range(38, 61)) / 2**60
    (told,) = re.findall(r"p = ([\d.]+) corrected for 3 comparisons", decision.sentence)
    assert float(told) == pytest.approx(3 * own, rel=0.1)
    assert decision.sentence.count("p = ") == 1
    best = "; no method is shown to be the best: dpo cannot be told from asft and simpo;"
    assert best in decision.sentence
    # and the number of items is that of the 5 % which the correction leaves
    changes = [value - 0.5 for value in hits(38, 60)]
    spread, mean = statistics.pstdev(changes), statistics.mean(changes)
    needed = ((2.393980 + 0.841621) * spread / mean) ** 2
    (step,) = (step for step in decision.next_steps if "corrected for 3" in step)
    about = float(re.search(r"about ([\d,]+) items", step)[1].replace(",", ""))  # type: ignore[index]
    assert needed <= about <= 1.1 * needed


def test_a_method_that_is_better_than_another_has_its_figures(tmp_path: Path) -> None:
    run = methods(tmp_path / "r", dpo=50, asft=20, simpo=47)
    loaded, board = load(run.path)
    decision = decide(loaded, board)
    # 50 and 20 of 60: 30 pairs, 50 points
    assert "dpo is better than asft by 50 points (" in decision.sentence
    assert "corrected for 2 comparisons), and cannot be told from simpo" in decision.sentence
    better = decision.answers[0]
    assert better.short == "yes, in one seed, best of 3"
    assert "Yes, in one seed, best of 3" in str(first_screen(loaded, decision))
    page = str(scores(loaded, board))
    assert "The methods against the best of them, dpo" in page


def test_models_of_other_starts_are_no_siblings(tmp_path: Path) -> None:
    run = methods(tmp_path / "r", dpo=50)
    run.train("other", "elsewhere")
    run.evaluate("other", {START: hits(30, 60)})
    effect = main_effect(*load(run.path))
    assert effect
    assert effect.siblings is None
    assert "the best of 2 models" in effect.sentence


def test_items_without_a_value_are_named_before_more_are_asked_for(tmp_path: Path) -> None:
    run = methods(tmp_path / "r", dpo=38)
    loaded, board = load(run.path)

    def step(num_failed: int) -> str:
        cells = {cell: replace(score, num_failed=num_failed) for cell, score in board.cells.items()}
        steps = decide(loaded, replace(board, cells=cells)).next_steps
        return next(step for step in steps if "dpo and base apart" in step)

    assert step(10).startswith("10 of 70 pairs gave no value; with them there are 70. To tell dpo")
    assert step(90).startswith("90 of 150 pairs gave no value; with them there are enough: to tell")
    assert step(0).startswith("To tell dpo and base apart, evaluate on about")


@pytest.mark.parametrize(("seen", "word"), [(20, "Little"), (30, "Nothing")])
def test_how_many_were_trained_on_decides_how_much_is_said(
    tmp_path: Path, seen: int, word: str
) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    counts = {"items": 60, "touched": seen, "exact": seen, "trained_on": seen}
    info = {"contamination": {"n": 8, "benchmarks": {"preferences": counts}}}
    run.evaluate("base", {START: [0.5] * 60})
    run.evaluate("dpo", {START: hits(38, 60)}, info=info)
    decision = decide(*load(run.path))
    assert decision.sentence.startswith(
        f"{word} can be said about new pairs: DPO was trained on {seen} of 60 of these items; on"
        " them it prefers the better answer in 63 % of 60 pairs ("
    )
    assert not any("evaluate on about" in step for step in decision.next_steps)
    assert decision.answers[2].verdict == "not measured"


def test_rows_trained_on_are_those_that_were_not_dropped(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.add("pairs", {"kind": "hh_rlhf"}, rows_out=100)
    trained = {"rows_trained": 14, "rows_validation": 4, "dropped": {"too long": 82}}
    for name in ("dpo", "asft"):
        run.add(name, {"kind": "train", "model": "base", "rows": "pairs"}, **trained)
    loaded, board = load(run.path)
    page = str(first_screen(loaded, decide(loaded, board)))
    assert "<b>14</b><span>rows trained on</span>" in page


def test_the_examples_are_those_of_the_model_of_the_headline(tmp_path: Path) -> None:
    from bezoar.parquet import write_parquet

    run = SmallRun(tmp_path / "r")
    run.add("held-out", {"kind": "hh_rlhf"}, rows_out=60)
    prompt = [{"role": "user", "content": "Which?"}]
    rows = [
        {"id": f"q{i}", "prompt": prompt, "chosen": "this", "rejected": "that"} for i in range(60)
    ]
    (folder,) = run.path.glob("*-held-out")
    write_parquet(folder / "rows.parquet", rows)
    for name, num in (("base", 30), ("dpo", 50), ("asft", 20)):
        if name != "base":
            run.train(name, "base", name)
        right = hits(num, 60)
        run.evaluate(name, {START: right, MARGIN: [value - 0.5 for value in right]})
        (key,) = run.path.glob(f"*-eval-{name}/key.json")
        facts = json.loads(key.read_text())
        facts["inputs"] = {"model": name, "preferences.rows": "held-out"}
        key.write_text(json.dumps(facts))
    loaded, board = load(run.path)
    page = str(examples(loaded, board))
    assert "moved most between base and dpo" in page
