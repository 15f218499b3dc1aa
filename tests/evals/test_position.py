"""A judge that goes by position: no win rate, and no interval, comes of its verdicts."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bezoar.chat.types import Comparison, Message
from bezoar.evals.judge_card import card
from bezoar.evals.position import cannot_judge
from bezoar.evals.stats import Score
from bezoar.evals.win_rate import outcome
from bezoar.report.console import print_outcome
from bezoar.report.html import write_report
from bezoar.report.load_scores import load_scoreboard
from bezoar.report.run import load_run
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference, Side
from tests.helpers.fake_run import build_run, edit_json, load

POSITION, SAME = ("A", "B"), ("A", "A")
Games = Sequence[tuple[Side | Unparsed, Side | Unparsed]]


def judged(games: Games) -> tuple[list[Comparison], list[Preference]]:
    pairs = [Comparison(str(i), (Message("user", "q"),), "one", "two") for i in range(len(games))]
    return pairs, [Preference(str(i), *sides) for i, sides in enumerate(games)]


def why(*games: Any) -> str:
    return cannot_judge(*judged(games))


def test_the_position_in_every_game() -> None:
    assert why(*[POSITION] * 6) == (
        "cannot judge: the judge named the first position in 12 of 12 games, and the same answer in"
        " both orders in 0 of 6 pairs"
    )
    assert "the second position in 2 of 2 games" in why(("B", "A"))
    # now the first, now the second: it still goes by where the answers stand
    assert "0 of 4 pairs" in why(POSITION, ("B", "A"), POSITION, ("B", "A"))
    # games that could not be read are left out
    assert "2 of 2 games" in why(POSITION, ("A", Unparsed("?")), (Unparsed("?"), Unparsed("?")))


def test_the_position_in_nearly_every_game() -> None:
    # of 20 pairs 4 are a fifth; P(X <= 4) = (1 + 20 + 190 + 1140 + 4845) / 2^20 = 0.0059
    assert "36 of 40 games" in why(*[POSITION] * 16, *[SAME] * 4)
    assert why(*[POSITION] * 15, *[SAME] * 5) == ""
    # of 8 pairs 1: (1 + 8) / 256 = 0.035
    assert "15 of 16 games" in why(*[POSITION] * 7, SAME)
    # of 5 pairs 1: (1 + 5) / 32 = 0.19, which a coin does too
    assert why(*[POSITION] * 4, SAME) == ""


def test_a_judge_that_reads_is_heard() -> None:
    assert why(SAME) == why(("B", "B")) == why(*[SAME] * 40) == ""
    assert why(*[POSITION] * 20, *[SAME] * 20) == ""
    # a tie in one order and a winner in the other is a gain
    assert why(POSITION, POSITION, ("A", "tie")) == ""


def test_ties_alone_say_nothing_unless_the_answers_are_equal() -> None:
    assert why(*[("tie", "tie")] * 3) == "cannot judge: the judge called all 6 games a tie"
    pairs, verdicts = judged([("tie", "tie")] * 3)
    assert cannot_judge([replace(pair, rejected=pair.chosen) for pair in pairs], verdicts) == ""
    assert why() == why((Unparsed("?"), "A")) == ""


def scores_of(games: Games, margins: Sequence[float] = ()) -> dict[str, Score]:
    return {score.name: score for score in outcome(*judged(games), margins).scores}


def test_no_number_and_no_interval_come_of_it() -> None:
    games = [POSITION] * 12
    found = scores_of(games)
    for name in ("win rate", "win rate/length-adjusted (ours)"):
        score = found[name]
        assert (score.value, score.low, score.high, score.n) == (None, None, None, 12)
        assert score.reason.startswith("cannot judge: the judge named the first position in 24 of")
    # what is of the judge itself stays, and so does what its position does not touch
    assert found["win rate/first position"].value == 1.0
    assert found["win rate/orders disagree"].value == 1.0
    free = scores_of(games, [1.0] * 9 + [-1.0] * 3)["win rate/free of position"]
    assert (free.value, free.reason) == (0.75, "")
    assert free.low is not None


def test_no_paired_test_reads_its_items() -> None:
    items = outcome(*judged([POSITION] * 12)).items
    assert {(i["value"], i["first"], i["second"]) for i in items} == {(None, "A", "B")}
    assert {i["value"] for i in outcome(*judged([SAME] * 12)).items} == {1.0}


def test_a_judge_that_can_judge_has_an_interval() -> None:
    score = scores_of([SAME] * 9 + [("B", "B")] * 3)["win rate"]
    assert (score.value, score.reason) == (0.75, "")
    assert score.low is not None


def test_the_card_of_such_a_judge_has_no_interval_either() -> None:
    accuracy, *_ = card(*judged([POSITION] * 12), []).scores
    assert (accuracy.name, accuracy.value) == ("judge/accuracy", 0.5)
    assert (accuracy.low, accuracy.high) == (None, None)
    assert accuracy.reason.startswith("cannot judge")
    assert not accuracy.by_definition


def test_no_verdict_but_failures_are_counted_as_before() -> None:
    score = scores_of([(Unparsed("?"), "A")] * 3)["win rate"]
    assert (score.value, score.n, score.num_failed, score.reason) == (None, 0, 3, "")


def test_the_reason_stands_in_place_of_the_number(tmp_path: Path) -> None:
    found = outcome(*judged([POSITION] * 12))
    console = Console(file=io.StringIO(), width=120)
    print_outcome(found, console, "a over b")
    told = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in told.splitlines() if line.startswith("win rate "))
    assert line.split() == ["win", "rate", "12", "cannot", "judge", "–", "0"]
    assert "named the first position in 24 of 24 games" in told
    assert "take a reward model (`reward_model`) or another judge" in " ".join(told.split())
    run_dir = build_run(tmp_path / "run")
    scores = [score.to_dict() for score in found.scores]
    edit_json(run_dir / "19-eval_dpo" / "scores.json", scores=scores)
    board = load_scoreboard(load_run(run_dir))
    assert "win rate" in board.main
    assert board.of("win rate") == {}
    text = write_report(*load(run_dir)).read_text()
    assert "cannot judge" in text
    assert "the judge named the first position in 24 of 24 games" in text
