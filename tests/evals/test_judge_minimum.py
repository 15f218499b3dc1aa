"""Verdicts that count only if the judge's card is good enough."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bezoar.chat.templates import ChatML
from bezoar.errors import RecipeError
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, remarks
from bezoar.evals.reward_metrics import WinRateOverRows
from bezoar.evals.win_rate import WinRate
from bezoar.llm.types import Reply, Request
from bezoar.report.html import write_report
from tests.helpers.fake_run import build_run, edit_json, load
from tests.helpers.loaded import loaded


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[str]:
    """Ten gold pairs, of which the judge below knows seven."""
    rows = [
        {"prompt": f"Q{i}?", "chosen": f"{'good' if i < 7 else 'bad'} {i}", "rejected": f"okay {i}"}
        for i in range(10)
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (str(path),)


class Judge:
    """Prefers what is good to what is okay to what is bad; grades everything 7."""

    def __init__(self) -> None:
        self.num_grades = self.num_games = 0

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        return [self.reply(request.messages[-1].content) for request in requests]

    def reply(self, text: str) -> Reply:
        if "[Answer A]\n" not in text:
            self.num_grades += 1
            return Reply("[[7]]")
        self.num_games += 1
        ranks = ["bad", "okay", "answer", "good"]
        a, b = (ranks.index(text.split(f"[Answer {s}]\n")[1].split()[0]) for s in "AB")
        return Reply("[[A]]" if a > b else "[[B]]" if b > a else "[[C]]")


def measured(stage: Evaluate, judge: Judge) -> Outcome:
    def answer(requests: Sequence[Request]) -> list[Reply]:
        return [Reply("answer") for _ in requests]

    def other(requests: Sequence[Request]) -> list[Reply]:
        return [Reply("okay") for _ in requests]

    asks = {"m": answer, "other": other}
    return stage.measure(
        EvalContext(
            ChatML(),
            lambda name: None,
            asks.__getitem__,
            lambda name: judge,
            lambda name: [],
            answers_only=True,
        )
    )


def stage_of(pairs: tuple[str], least: float) -> Evaluate:
    card = JudgeCard(judge="judge", pairs=pairs, repeats=0, injection=False)
    win = WinRate("judge", against="other", limit=6, min_accuracy=least)
    return Evaluate(
        "m", judge_card=card, win_rate=win, mt_bench=MTBench("judge", limit=2, min_accuracy=least)
    )


def test_the_verdicts_of_a_judge_that_is_good_enough_count(pairs: tuple[str]) -> None:
    outcome = measured(stage_of(pairs, 0.7), Judge())
    values = {score.name: score.value for score in outcome.scores}
    assert values["win rate"] == 1.0
    assert values["mt_bench"] == 7.0


def test_a_worse_judge_is_not_asked_and_the_reason_stands_in_its_place(pairs: tuple[str]) -> None:
    judge = Judge()
    outcome = measured(stage_of(pairs, 0.75), judge)
    assert (judge.num_games, judge.num_grades) == (20, 0)  # those of the card alone
    assert [score.name for score in outcome.scores] == ["mt_bench", "win rate"]
    for score in outcome.scores:
        assert (score.value, score.low, score.n) == (None, None, 0)
        # 14 of 20 games
        assert score.reason.startswith("cannot judge: the judge's accuracy is 0.700 [0.")
        assert score.reason.endswith("(n 20), and min_accuracy asks for 0.75")
    told = remarks(outcome.info)
    assert told[0].startswith("mt_bench: cannot judge")
    assert told[0].endswith("; take another judge.")
    assert told[1].endswith("; take a reward model (`reward_model`) or another judge.")
    assert outcome.items == []


def test_a_report_shows_the_reason(pairs: tuple[str], tmp_path: Path) -> None:
    run_dir, outcome = build_run(tmp_path / "run"), measured(stage_of(pairs, 0.9), Judge())
    scores = [score.to_dict() for score in outcome.scores]
    edit_json(run_dir / "19-eval_dpo" / "scores.json", scores=scores, info=outcome.info)
    run, board = load(run_dir)
    assert {"win rate", "mt_bench"} <= set(board.main)
    assert "and min_accuracy asks for 0.9" in write_report(run, board).read_text()


def test_a_minimum_needs_a_card_of_the_same_judge(pairs: tuple[str]) -> None:
    stage = stage_of(pairs, 0.7)
    win, card = stage.win_rate, stage.judge_card
    assert win is not None
    assert card is not None
    with pytest.raises(ValueError, match=r"win_rate.min_accuracy needs a judge_card of the same"):
        Evaluate("m", win_rate=win)
    with pytest.raises(ValueError, match=r"judge_card: \{judge: judge, pairs: \[FILE\]\}"):
        Evaluate("m", win_rate=win, judge_card=replace(card, judge="another"))
    with pytest.raises(ValueError, match="the same prompt, verdict and goodness"):
        Evaluate("m", win_rate=win, judge_card=replace(card, verdict="logprob"))
    with pytest.raises(ValueError, match=r"mt_bench.min_accuracy needs a judge_card"):
        Evaluate("m", mt_bench=stage.mt_bench)
    with pytest.raises(RecipeError, match=r"min_accuracy: must be less than or equal to 1"):
        loaded(WinRateOverRows("judge", rows="r", min_accuracy=70))
    Evaluate("m", win_rate=replace(win, min_accuracy=None))
