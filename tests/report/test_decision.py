"""The decision at the top of a report, its numbers derived from the run's files by other means."""

import json
import math
import re
import statistics
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from bezoar.evals.stats import Difference, score, wilson
from bezoar.report.decision import Answer, Decision, decide, duration
from bezoar.report.next_steps import items_needed
from bezoar.report.run import load_run
from bezoar.report.sections.differences import differences
from bezoar.report.sections.failures import failures
from tests.helpers.fake_run import load
from tests.helpers.small_run import START, SmallRun, hits


def decided(run: SmallRun) -> Decision:
    return decide(*load(run.path))


def answers(decision: Decision) -> dict[str, Answer]:
    return {answer.question: answer for answer in decision.answers}


def chain(path: Path, base: list[float], sft: list[float], dpo: list[float]) -> SmallRun:
    """base -> sft -> dpo, each evaluated on preferences and on a task that nothing moves."""
    run = SmallRun(path)
    run.train("sft", "base", seconds=300.0)
    run.train("dpo", "sft", "dpo", seconds=540.4)
    for model, values in (("base", base), ("sft", sft), ("dpo", dpo)):
        task = hits(20, 40)
        calls = {"asked": 10, "failed": 0, "cost_usd": 0.004}
        run.evaluate(model, {START: values, "quiz/acc": task}, seconds=20.0, calls=calls)
    return run


def stored(run: SmallRun, model: str) -> dict[str, Any]:
    """Score name -> its values in scores.json, read without bezoar."""
    (path,) = run.path.glob(f"*-eval-{model}/scores.json")
    return {row["name"]: row for row in json.loads(path.read_text())["scores"]}


def test_items_without_a_value_are_said_once_with_their_reason(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    why = "longer than the model's 512 tokens"
    info = {"preferences": {"num_items": 60, "failures": {why: 10}}}
    for model in ("base", "dpo"):
        values = [None] * 10 + ([0.5] * 50 if model == "base" else hits(40, 50))
        run.evaluate(model, {START: values, START.replace("accuracy", "margin"): values}, info=info)
        (path,) = run.path.glob(f"*-eval-{model}/items.jsonl")
        items = [json.loads(line) for line in path.open()]
        told = [i | ({"reason": why} if i["value"] is None else {}) for i in items]
        path.write_text("".join(json.dumps(item) + "\n" for item in told))
    (said,) = (w for w in decided(run).warnings if "512" in w)
    assert said == f"base and dpo: preferences: 10 of 60 pairs are {why} and have no value."
    markup = str(failures(load_run(run.path)))
    assert f"10 {escape(why)}" in markup
    assert markup.count("<code>q0</code>") == 2  # once for each model


def test_each_number_of_the_first_sentence_is_one_of_the_runs_files(tmp_path: Path) -> None:
    run = chain(tmp_path / "r", [0.5] * 45, hits(32, 45), hits(40, 45))
    sentence = decided(run).sentence
    match = re.fullmatch(
        r"After DPO the model prefers the better answer in (\d+) % of (\d+) held-out pairs"
        r" \((\d+)–(\d+) %\), before in (\d+) %,"
        r" at the start in 50 %: better than base \(p = ([\d.e-]+) corrected for 2 comparisons\);"
        r" no change was found on quiz; \$([\d.]+), (\d+) minutes\.",
        sentence,
    )
    assert match, sentence
    value, n, low, high, before, p, cost, minutes = map(float, match.groups())
    dpo, sft = stored(run, "dpo")[START], stored(run, "sft")[START]
    assert (value, n) == (round(100 * dpo["value"]), dpo["n"]) == (89, 45)
    assert (low, high) == (round(100 * dpo["low"]), round(100 * dpo["high"])) == (77, 95)
    assert before == round(100 * sft["value"]) == 71
    # dpo against chance: 40 of 45 or more, both ways; 10,000 sign flips find none so far out. Holm:
    # the smaller of two p is doubled
    of_base = 2 * sum(math.comb(45, k) for k in range(40, 46)) / 2**45
    assert p == pytest.approx(2 * max(of_base, 1 / 10_001), rel=0.15)
    stats = [json.loads(path.read_text()) for path in run.path.glob("*/stats.json")]
    assert cost == pytest.approx(sum(s.get("calls", {}).get("cost_usd", 0) for s in stats))
    assert minutes == round(sum(s["seconds"] for s in stats) / 60) == 15


def test_better_than_the_start_model_with_the_evidence_for_it(tmp_path: Path) -> None:
    decision = decided(chain(tmp_path / "r", [0.5] * 45, hits(32, 45), hits(40, 45)))
    better = answers(decision)["Is it better?"]
    assert better.verdict == "yes"
    assert "On preferences/implicit reward over start accuracy: against base +39" in better.why
    # eight more and none lost, alone or as the smaller of two
    assert "; against sft +18 points (+7 to +29), better (p = 0.013)." in better.why
    assert better.why.endswith(" p is corrected for 2 comparisons.")
    worse = answers(decision)["What got worse?"]
    assert (worse.verdict, worse.short) == ("no", "Nothing found")
    # 40 tasks that nothing moves, two comparisons: (z of 98.75 % + z of 80 %) * .707 / sqrt(40)
    assert (
        f"quiz (n = 40; {100 * (2.2414 + 0.8416) * math.sqrt(0.5) / math.sqrt(40):.0f} points)"
        in worse.why
    )
    assert answers(decision)["Is it safe to use?"].verdict == "not measured"
    assert any("`repeats: 3`" in step for step in decision.next_steps)
    assert not decision.warnings


def test_an_unclear_difference_says_how_many_items_would_tell(tmp_path: Path) -> None:
    base, dpo = hits(20, 40), hits(22, 40)
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    for model, values in (("base", base), ("dpo", dpo)):
        run.evaluate(model, {"quiz/acc": values})
    decision = decided(run)
    assert answers(decision)["Is it better?"].verdict == "unclear"
    changes = [b - a for a, b in zip(base, dpo, strict=True)]
    spread, mean = statistics.pstdev(changes), statistics.mean(changes)
    needed = ((1.959964 + 0.841621) * spread / mean) ** 2
    (step,) = (step for step in decision.next_steps if "evaluate on about" in step)
    told = float(re.search(r"about ([\d,]+) items", step)[1].replace(",", ""))  # type: ignore[index]
    assert needed <= told <= 1.1 * needed
    assert "(+5 points)" in step
    assert "there were 40" in step


def test_the_number_of_items_is_that_of_the_power_of_the_test() -> None:
    # ((1.960 + 0.842) * 0.5 / 0.1)^2 = 196.2
    test = Difference("x", 0.0, 0.1, 0.1, 0.0, 0.2, 0.1, 50, spread=0.5)
    assert items_needed(test) == 197
    assert items_needed(test, 0.2) == 50
    # one of four tests has 1.25 % to itself: ((2.498 + 0.842) * 0.5 / 0.1)^2 = 278.9
    assert items_needed(replace(test, num_tests=4)) == 279
    assert items_needed(Difference("x", 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 50)) is None


def test_too_few_items_ask_for_as_many_as_the_test_needs(tmp_path: Path) -> None:
    decision = decided(chain(tmp_path / "r", [0.5] * 5, hits(0, 5), hits(5, 5)))
    assert "too few items to tell (n = 5; at least 7 are needed)" in decision.sentence
    assert decision.next_steps[0].startswith("Evaluate on at least 7 items: 5 cannot tell")
    assert answers(decision)["Is it better?"].verdict == "unclear"


def test_items_that_were_trained_on_change_the_sentence(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    counts = {"items": 20, "touched": 20, "exact": 20, "trained_on": 20}
    info = {"contamination": {"n": 8, "benchmarks": {"preferences": counts}}}
    run.evaluate("base", {START: [0.5] * 20})
    run.train("sft", "base")
    run.evaluate("sft", {START: hits(18, 20)}, info=info)
    run.evaluate("dpo", {START: hits(20, 20)}, info=info)
    decision = decided(run)
    assert "sft and dpo: were trained on 20 of 20" in decision.warnings[0]
    assert decision.sentence.startswith(
        "Nothing can be said about new pairs: DPO was trained on 20 of 20 of these items; on them"
        " it prefers the better answer in 100 % of 20 pairs (84–100 %); "
    )
    for answer in decision.answers:
        assert "better (" not in answer.why
    assert "held-out" not in decision.sentence
    assert answers(decision)["Is it better?"].verdict == "unclear"
    assert any("trained on 20 of 20" in warning for warning in decision.warnings)
    assert "`held_out: 0.1`" in decision.next_steps[0]


def test_what_fell_is_told_and_is_no_safety(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    names = ("quiz/acc", "truthfulqa_mc1/acc")
    for model, num, rewards in (("base", 30, [0.5] * 40), ("dpo", 10, hits(30, 40))):
        run.evaluate(model, {START: rewards, **dict.fromkeys(names, hits(num, 40))})
    decision = decided(run)
    assert "quiz fell from 75 % to 25 %; truthfulqa_mc1 fell from 75 % to 25 %" in decision.sentence
    assert answers(decision)["What got worse?"].short == "Something did"
    assert "quiz −50 points" in answers(decision)["What got worse?"].why
    assert answers(decision)["Is it safe to use?"].verdict == "no"


def moved_tasks(path: Path, **nums: int) -> Decision:
    """The decision where dpo has `nums` of 40 right on each task, and base 20."""
    run = SmallRun(path)
    run.train("dpo", "base", "dpo")
    tasks = {f"{name}/acc": hits(num, 40) for name, num in nums.items()}
    run.evaluate("base", {START: [0.5] * 40, **{name: hits(20, 40) for name in tasks}})
    run.evaluate("dpo", {START: hits(36, 40), **tasks})
    return decided(run)


def test_of_many_benchmarks_that_moved_two_are_told_the_strongest_first(tmp_path: Path) -> None:
    nums = {"a": 34, "b": 2, "c": 37, "d": 35, "e": 33}
    sentence = moved_tasks(tmp_path / "r", **nums, still=20).sentence
    told = sentence.partition("; ")[2]
    assert told.startswith(
        "b fell from 50 % to 5 %; c rose from 50 % to 92 %; and 3 more benchmarks changed: see"
        " Scores; $"
    )
    assert "still" not in told
    # one that moved leaves room for the others, which are counted where they are many
    sentence = moved_tasks(tmp_path / "s", a=2, b=20, c=20, d=20, e=20).sentence
    assert "; a fell from 50 % to 5 %; no change was found on 4 benchmarks; $" in sentence
    sentence = moved_tasks(tmp_path / "t", a=2, b=36, c=20).sentence
    assert "to 90 %; and 1 more benchmark: see Scores; $" in sentence


def graded(path: Path, base: list[float], dpo: list[float]) -> dict[str, Answer]:
    run = SmallRun(path)
    run.train("dpo", "base", "dpo")
    for model, rewards, values in (("base", [0.5] * 40, base), ("dpo", hits(36, 40), dpo)):
        run.evaluate(model, {START: rewards, "mt_bench/grade": values})
    return answers(decided(run))


def test_without_a_spread_no_smallest_fall_is_made_up(tmp_path: Path) -> None:
    grades = [0.1 * i for i in range(40)]
    worse = graded(tmp_path / "same", grades, grades)["What got worse?"]
    assert worse.verdict == "no"
    assert worse.why.endswith("points). Every item of MT-Bench was the same in both.")
    # the differences are all 0.3, and their standard deviation 1e-16 once they are rounded
    higher = [grade + 0.3 for grade in grades]
    assert statistics.pstdev([b - a for a, b in zip(grades, higher, strict=True)]) > 0
    worse = graded(tmp_path / "alike", grades, higher)["What got worse?"]
    assert "e-1" not in worse.why
    assert worse.why.endswith("points). On MT-Bench it got better.")


def test_the_forest_plot_says_the_number_of_items_once(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    for model, num in (("base", 0), ("few", 4)):
        run.evaluate(model, {"quiz/acc": hits(num, 4)})
    board = load(run.path)[1]
    text = "".join(map(str, differences(board, ["quiz/acc"])))
    assert text.count("n = 4") == 1
    assert "too few items to tell (n = 4; at least 6 are needed)" in text


def test_no_difference_on_any_item_has_no_interval(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    for model in ("base", "dpo"):
        run.evaluate(model, {"quiz/acc": hits(20, 40)})
    why = answers(decided(run))["Is it better?"].why
    assert why == "On quiz/acc: against base the same on every item."


def test_a_score_with_a_reason_alone_gives_the_reason(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    for model in ("a", "b", "c", "d"):
        run.evaluate(model, {"quiz/acc": hits(20, 40)})
    for model, reason in (("c", "the judge named the first position"), ("d", "")):
        (path,) = run.path.glob(f"*-eval-{model}/scores.json")
        facts = json.loads(path.read_text())
        facts["scores"][0] |= {"value": None, "low": None, "high": None, "n": 0, "reason": reason}
        path.write_text(json.dumps(facts))
        (path.parent / "items.jsonl").write_text("")
    left_out = load(run.path)[1].left_out(["quiz/acc"])
    assert left_out == [
        "c is not compared on quiz/acc: the judge named the first position.",
        "d is not compared on quiz/acc: its score has no items.",
    ]


def over_seeds(path: Path, *nums: int) -> Decision:
    """The decision of a recipe with so many seeds; dpo wins `nums` of 45 pairs, one a seed."""
    runs = []
    for i, num in enumerate(nums):
        run = SmallRun(path / str(i))
        run.train("dpo", "base", "dpo")
        for model, values in (("base", [0.5] * 45), ("dpo", hits(num, 45))):
            run.evaluate(model, {START: values})
        runs.append(load(run.path))
    first, board = runs[0]
    seeds = {7 + i: own for i, (_, own) in enumerate(runs)}
    return decide(first, replace(board, seeds=seeds, repeated=frozenset({"dpo"})))


def test_several_seeds_carry_a_claim_together(tmp_path: Path) -> None:
    decision = over_seeds(tmp_path, 40, 36, 38)
    # 36 / 45 = 80 %, 40 / 45 = 89 %
    assert "80 % to 89 % over 3 seeds, where chance is 50 %: better" in decision.sentence
    better = answers(decision)["Is it better?"]
    assert better.verdict == "yes"
    assert better.why.endswith("over seeds better than base in 3 of 3, shown in 3.")
    assert better.short == "yes"
    assert not any("repeats" in step for step in decision.next_steps)


@pytest.mark.parametrize("nums", [(40, 24, 23), (40, 38, 5), (40, 40, 22)])
def test_a_claim_of_one_seed_or_of_two_directions_is_unclear(
    tmp_path: Path, nums: tuple[int, int, int]
) -> None:
    decision = over_seeds(tmp_path, *nums)
    assert answers(decision)["Is it better?"].verdict == "unclear"
    assert any("seed" in warning for warning in decision.warnings)


def test_a_judge_that_cannot_judge_is_to_be_replaced(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("dpo", "base", "dpo")
    reason = "cannot judge: the judge named the first position in 40 of 40 games"
    card = {"scores": [{**vars(score("judge/accuracy", hits(21, 40)))}]}
    info = {"win_rate": {"cannot_judge": reason}, "judge_card": card}
    run.evaluate("base", {START: [0.5] * 40})
    run.evaluate("dpo", {START: hits(36, 40)}, info=info)
    decision = decided(run)
    low, high = (round(100 * bound) for bound in wilson(21, 40))
    assert decision.warnings == [
        f"dpo: win_rate {reason}.",
        f"dpo: judge_card is right in 52 % of 40 games ({low}–{high} %), which may be chance.",
    ]
    assert decision.next_steps[0] == (
        "Take a reward model or another judge for `win_rate` and `judge_card`: this one cannot"
        " judge."
    )


def test_a_run_of_rows_alone_says_what_became_of_them(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.add("seeds", {"kind": "hh_rlhf"}, rows_out=90)
    calls = {"asked": 100, "failed": 3, "cost_usd": 0.5}
    scheme = {"kind": "lamini", "seeds": "seeds", "teacher": "t"}
    dropped = {"no instruction": 50, "cut": 10, "surplus": 5}
    run.add("lamini", scheme, rows_in=90, rows_out=35, dropped=dropped, calls=calls, seconds=100.0)
    judged = {"kind": "filter", "rows": "lamini"}
    run.add("kept", judged, rows_in=35, rows_out=25, dropped={"reject": 10})
    decision = decided(run)
    # 50 + 10 + 5 + 10 dropped and 25 kept; 0.5 USD / 25
    assert decision.sentence == (
        "The run kept 25 rows and dropped 75 (75 %) (kept); $0.020 a kept row; $0.50, 2 minutes."
    )
    assert decision.answers == []
    assert decision.warnings == ["lamini: 3 of 100 requests failed and gave nothing."]
    assert decision.next_steps == [
        "Look at what lamini dropped, 60 of 95 rows (63 %), most of them no instruction (50):"
        " 02-lamini/failures.jsonl."
    ]
    run.add("evol", scheme, rows_in=12, rows_out=3, dropped={"cut": 4, "equal": 3, "refusal": 2})
    assert "9 of 12 rows (75 %), the largest part cut (4)" in decided(run).next_steps[-1]


def test_reward_models_are_told_from_chance_and_from_each_other(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    for name, num in (("regression", 45), ("pairs-rm", 20)):
        run.train(name, "base", "bradley_terry")
        run.evaluate(name, {"RewardBench/pairs": hits(num, 60)})
    decision = decided(run)
    low, high = (round(100 * bound) for bound in wilson(45, 60))
    assert decision.sentence.startswith(
        f"After regression the model puts the better answer first in 75 % of 60 pairs ({low}–{high}"
        " %), where chance is 50 %; regression is better than pairs-rm by 42 points (28 to 55, p ="
    )
    better = answers(decision)["Is it better?"]
    assert (better.verdict, better.short) == ("yes", "yes, in one seed, best of 2")


def test_an_unfinished_run_says_so_first(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.train("sft", "base")
    run.add("eval-sft", {"kind": "evaluate", "model": "sft"}, done=False)
    decision = decided(run)
    assert decision.sentence == "sft was trained and not evaluated; $0, 0 seconds."
    assert decision.warnings == ["This run is not finished: eval-sft has no output yet."]
    assert decision.next_steps == ["Run the same command again: it goes on with eval-sft."]
    assert {answer.verdict for answer in decision.answers} == {"not measured"}


def test_a_run_of_one_model_has_nothing_to_be_better_than(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    run.evaluate("base", {"quiz/acc": hits(10, 40)})
    decision = decided(run)
    assert decision.sentence.startswith("base is right in 25 % of 40 questions of quiz (14–40 %);")
    assert {answer.verdict for answer in decision.answers} == {"not measured"}


def test_the_curve_of_the_validation_loss_gives_advice(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "r")
    for name, losses in (
        ("rises", [2.0, 1.5, 1.4, 1.8]),
        ("falls", [2.0, 1.8, 1.6, 1.4]),
        ("ends", [2.0, 1.5, 1.41, 1.40]),
        ("only-rises", [1.0, 1.2, 1.3]),
    ):
        run.train(name, "base")
        run.curve(name, losses)
    steps = decided(run).next_steps
    assert "rises: the validation loss rose after step 2 of 3; fewer `epochs` or a lower `lr`." in (
        steps
    )
    assert "falls: the validation loss still fell at the end; more `epochs`." in steps
    assert steps[0].startswith("only-rises: no step was better than the start (validation loss ")
    assert not any(step.startswith("ends") for step in steps)


def test_lengths_of_time_are_said_in_one_unit() -> None:
    assert [duration(s) for s in (1, 42, 899, 7000, 200_000)] == [
        "1 second",
        "42 seconds",
        "15 minutes",
        "2 hours",
        "2 days",
    ]


def test_the_made_up_demo_has_a_decision(whole: Path) -> None:
    decision = decide(*load(whole))
    assert "After DPO the model" in decision.sentence
    assert [answer.question for answer in decision.answers] == [
        "Is it better?",
        "Is it safe to use?",
        "What got worse?",
    ]
