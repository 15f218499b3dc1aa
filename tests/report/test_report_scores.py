import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bezoar.evals.comparison import Measured, differences
from bezoar.evals.stats import Score, apart
from bezoar.io import Row, read_own
from bezoar.report.console import print_scores
from bezoar.report.formatting import (
    count,
    interval,
    listed,
    number,
    percent,
    seconds,
    signed,
    size,
    usd,
)
from bezoar.report.html import write_report
from bezoar.report.load_scores import load_scoreboard, read_score
from bezoar.report.model_card import model_card
from bezoar.report.run import load_run
from bezoar.report.scoreboard import Scoreboard
from tests.helpers.fake_run import build_run, edit_json, load, stages

Build = Callable[..., Path]


def board_of(
    values: dict[str, list[float]], *, name: str = "acc", higher: bool = True
) -> Scoreboard:
    """A board with one benchmark and paired items."""
    board = Scoreboard()
    for model, its in values.items():
        board.labels[model] = model.upper()
        board.cells[name, model] = Score(
            name, sum(its) / len(its), 0.0, 1.0, len(its), 0, "", higher
        )
        board.items[name, model] = {f"q{i}": v for i, v in enumerate(its)}
    return board


def test_a_paired_difference_shows_where_intervals_overlap() -> None:
    low = [i / 40 for i in range(40)]
    verdict = board_of({"a": low, "b": [v + 0.02 for v in low]}).verdict("acc")
    assert verdict is not None
    assert verdict.tied == ("b",)


def test_five_items_cannot_tell_models_apart() -> None:
    verdict = board_of({"a": [0.0] * 5, "b": [1.0] * 5}).verdict("acc")
    assert verdict is not None
    assert verdict.none


def test_six_items_that_all_agree_can() -> None:
    assert not board_of({"a": [0.0] * 6, "b": [1.0] * 6}).verdict("acc").none  # type: ignore[union-attr]


def test_more_models_need_a_clearer_difference() -> None:
    values = {"a": [0.0] * 6, "b": [1.0] * 6}
    others = {f"c{i}": [0.0] * 6 for i in range(3)}
    assert board_of(values | others).verdict("acc").none  # type: ignore[union-attr]  # p = 2/64, times four models


def test_two_evaluations_of_one_model_both_stand(tmp_path: Path) -> None:
    table = stages()
    table = {name: table[name] for name in ("pairs", "pairs_test", "sft_lamini", "dpo")}
    evaluation = stages()["eval_dpo"]
    # the one on rows that were trained on has run first
    table |= {"eval-trained": evaluation, "eval_sft": {**evaluation, "model": "base"}}
    table["eval_dpo"] = evaluation
    path = build_run(tmp_path / "twice", table=table)
    for name, pairs, num in (("05-eval-trained", "a", 20), ("07-eval_dpo", "b", 0)):
        hits = {"benchmarks": {"preferences": {"items": 40, "trained_on": num}}}
        same = {"conditions": {"preferences": {"pairs": pairs}}}
        facts = {"info": {"preferences": same, "contamination": hits}}
        edit_json(path / name / "scores.json", **facts)
    edit_json(path / "06-eval_sft" / "scores.json", info={"preferences": same})
    stored = read_own(path / "05-eval-trained" / "scores.json", scores=list[Row])["scores"]
    stored[0] = {**stored[0], "value": 0.975}
    edit_json(path / "05-eval-trained" / "scores.json", scores=stored)
    run, board = load(path)
    assert list(board.labels) == ["dpo", "dpo (eval-trained)", "base"]
    accuracy = "preferences/log-prob accuracy"
    values = [board.cells[accuracy, model] for model in board.labels]
    assert values[1].value == 0.975
    assert values[0].value not in (None, 0.975)
    assert board.alike(accuracy) == [["dpo", "base"], ["dpo (eval-trained)"]]
    assert [board.trained_on(model, accuracy) for model in board.labels] == [
        "",
        "trained on 20 of 40 of these items",
        "",
    ]
    # what both measured alike counts once
    assert ("mt_bench", "dpo (eval-trained)") not in board.cells
    card = model_card(run, next(s for s in run.stages if s.name == "dpo"), board)
    assert f"| {accuracy} | {number(values[0].value)} |" in card
    assert f"| {accuracy} (eval-trained) | {number(values[1].value)} |" in card
    assert "preferences (eval-trained): the model was trained on 20 of 40" in card
    console = Console(width=120, record=True, file=io.StringIO())
    print_scores(run, board, console)
    assert "(eval-trained)" in console.export_text()


def test_who_was_trained_on_the_items_is_not_the_best() -> None:
    board = board_of({"a": [0.0] * 8, "b": [1.0] * 8})
    counts = {"items": 8, "trained_on": 6}
    board.facts["b"] = {"info": {"contamination": {"benchmarks": {"acc": counts}}}}
    assert board.headline == ["B leads on acc, but was trained on 6 of 8 of these items."]
    (verdict,) = board.verdicts
    assert board.in_words(verdict) == "B leads, but was trained on 6 of 8 of these items"


def test_lower_is_better_where_the_score_says_so() -> None:
    board = board_of({"a": [0.0] * 8, "b": [1.0] * 8}, name="perplexity", higher=False)
    assert board.headline == ["A is best on perplexity."]


def test_without_items_intervals_decide() -> None:
    one = Score("x", 0.5, 0.4, 0.6, 10)
    assert apart(one, Score("x", 0.8, 0.7, 0.9, 10))
    assert not apart(one, Score("x", 0.7, 0.55, 0.8, 10))
    assert not apart(one, Score("x", 0.9, None, None, 10))
    other = Measured("m", Score("x", 0.8, 0.7, 0.9, 10), {"q1": 1.0})
    gap = differences(Measured("one", one), [other])["m"]
    assert (gap.difference, gap.n, gap.p) == (pytest.approx(0.3), 0, None)
    assert gap.verdict == "better"


def test_only_shared_items_count() -> None:
    board = board_of({"a": [0.0] * 20, "b": [1.0] * 20})
    board.items["acc", "b"] = {f"q{i}": 1.0 for i in range(15, 30)}
    assert board.against("acc", "a")["b"].n == 5


def test_headlines_group_benchmarks_by_who_leads() -> None:
    board = board_of({"a": [0.0] * 20, "b": [1.0] * 20, "c": [1.0] * 20})
    for model in ("a", "b", "c"):
        board.cells["same", model] = Score("same", 0.5, 0.4, 0.6, 9)
        board.cells["wide", model] = Score(
            "wide",
            {"a": 0.1, "b": 0.2, "c": 0.9}[model],
            {"a": 0.0, "b": 0.1, "c": 0.8}[model],
            {"a": 0.15, "b": 0.3, "c": 1.0}[model],
            9,
        )
    assert board.headline == [
        "C is best on wide.",
        "B and C lead on acc, not distinguishable from each other.",
        "On same the models are not distinguishable from the leader.",
    ]


def test_a_headline_of_no_difference() -> None:
    board = board_of({"a": [0.0, 1.0] * 4, "b": [1.0, 0.0] * 4})
    assert board.headline == [
        "The models are not distinguishable from the leader on every benchmark (acc)."
    ]


def test_main_scores_are_one_a_family_with_the_margin(whole: Path) -> None:
    board = load_scoreboard(load_run(whole))
    assert board.main == [
        "preferences/log-prob accuracy",
        "preferences/log-prob margin",
        "arc_easy/acc",
        "mt_bench",
    ]
    assert board.benchmarks[-1] == "mt_bench/turn 1"
    assert set(board.parts["mt_bench", "base"]) >= {"writing", "math"}


def test_a_score_without_a_value_leaves_a_gap(fresh: Build) -> None:
    run_dir = fresh()
    edit_json(
        run_dir / "16-eval_base" / "scores.json",
        scores=[
            {"name": "mt_bench", "value": None, "low": None, "high": None, "n": 0, "num_failed": 24}
        ],
    )
    board = load_scoreboard(load_run(run_dir))
    assert list(board.of("mt_bench")) == ["sft_evol", "hh_sft", "dpo"]
    assert read_score({"name": "x", "value": float("nan"), "new": 1}) == Score(
        "x", None, None, None, 0
    )


def test_the_judges_card_stands_beside_the_scores(fresh: Build) -> None:
    run_dir = fresh()
    figures = [
        {
            "name": "judge/accuracy",
            "value": 0.7125,
            "low": 0.61,
            "high": 0.8,
            "n": 80,
            "num_failed": 20,
        }
    ]
    card = {"judge": "grader", "judge_hash": "0123abcd", "scores": figures}
    for name in ("16-eval_base", "17-eval_sft_evol"):
        edit_json(run_dir / name / "scores.json", info={"judge_card": card})
    text = write_report(*load(run_dir)).read_text()
    assert text.count("The judge grader") == 1
    for shown in ("0123abcd", "0.713", "[0.610, 0.800]", "20 (20 %)"):
        assert shown in text


def test_the_terminal_shows_the_numbers_of_the_report(whole: Path) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_scores(*load(whole), console)
    text = console.export_text()
    board = load_scoreboard(load_run(whole))
    for benchmark in board.main:
        for score in board.of(benchmark).values():
            assert number(score.value) in text
            assert interval(score.low, score.high) in text
    assert "1 (4 %) failed" in text
    assert "DPO is best on" in text


def test_the_terminal_of_a_partial_run(fresh: Build) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_scores(*load(fresh(until="eval_dpo")), console)
    assert "Not run yet: eval_dpo." in console.export_text()


def test_markup_in_names_is_no_markup_in_the_terminal(fresh: Build) -> None:
    run_dir = fresh()
    edit_json(run_dir / "16-eval_base" / "scores.json", label="[red]x[/] [/]")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_scores(*load(run_dir), console)
    assert "[red]x[/] [/]" in console.export_text()


def test_numbers() -> None:
    assert [
        number(v) for v in (0, 0.4123, 3.214, 41.23, 1234.5, 5e-6, -0.25, None, float("nan"), True)
    ] == ["0", "0.412", "3.21", "41.2", "1,234", "5.0e−06", "−0.250", "–", "–", "–"]
    assert [signed(v) for v in (0.2, -0.2, 0)] == ["+0.200", "−0.200", "±0"]
    assert [seconds(v) for v in (4.2, 59.97, 200, 7500)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [usd(v) for v in (0, 0.0021, 12.5, 0.00000123)] == [
        "$0",
        "$0.0021",
        "$12.50",
        "$0.0000012",
    ]
    assert [size(v) for v in (512, 2048, 5 << 20, 3 << 30)] == [
        "512 B",
        "2 KiB",
        "5 MiB",
        "3.00 GiB",
    ]
    assert [percent(1, 3), percent(1, 400), percent(0, 0)] == ["33 %", "0.2 %", "0 %"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["none", "a", "a, b and c"]
    assert count(1234.6) == "1,235"
