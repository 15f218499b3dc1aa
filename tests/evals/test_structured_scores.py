"""Scores of verdicts that were held to a form, beside those of others."""

from collections.abc import Callable

from bezoar.chat.types import Comparison
from bezoar.evals.comparison import Measured, condition, unlike
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, remarks
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.win_rate import WinRate
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.forms import Way

WAYS: tuple[Way, Way] = ("text", "structured")


def answers(requests: list[Request]) -> list[Reply]:
    return [Reply(f"Answer {len(request.messages)}.") for request in requests]


def grades(requests: list[Request]) -> list[Reply]:
    return [Reply(f"Good.\nRating: [[{1 + n % 9}]]") for n, _ in enumerate(requests)]


def sides(requests: list[Request]) -> list[Reply]:
    return [Reply(f"Good.\n[[{'AB'[n % 2]}]]") for n, _ in enumerate(requests)]


def check(plain: Outcome, held: Outcome, benchmark: str, section: str) -> None:
    """The same numbers under two conditions."""
    ours, theirs = (
        Measured(
            "m", next(s for s in o.scores if s.name == benchmark), {}, condition(o.info, benchmark)
        )
        for o in (plain, held)
    )
    assert ours.score.value == theirs.score.value is not None
    assert "held to a form" in unlike(ours, theirs)
    told = f"{section}: the judge's verdicts were held to a form while they were drawn."
    assert told in remarks(held.info)
    assert told not in remarks(plain.info)


def test_they_are_compared_with_no_others() -> None:
    plain, held = (
        MTBench(judge="j", limit=4, verdict=verdict).measure(answers, grades) for verdict in WAYS
    )
    check(plain, held, "mt_bench", "mt_bench")
    # conditions of older evaluations stay what they were
    assert "held to a form" not in condition(plain.info, "mt_bench")
    context = EvalContext(None, None, lambda name: answers, lambda name: sides, None)  # type: ignore[arg-type]
    plain, held = (
        WinRate(against="b", judge="j", limit=4, verdict=verdict).run("m", context, None)  # type: ignore[arg-type]
        for verdict in WAYS
    )
    check(plain, held, "win rate/first position", "win_rate")


def test_a_model_as_a_judge_of_pairs() -> None:
    pairs = [Comparison(f"{n}", (), "a", "b", {"subset": "shp"}) for n in range(4)]
    rows, none = (lambda name: pairs), (lambda name: None)
    context = EvalContext(None, none, lambda name: sides, none, rows, answers_only=True)  # type: ignore[arg-type,return-value]
    plain, held = (
        RewardBench(rows="pairs", by="judge", verdict=verdict).run("m", context, made)
        for verdict in WAYS
    )
    check(plain, held, "RewardBench/shp", "reward_bench")
    plain, held = (
        JudgeCard(rows="pairs", repeats=0, injection=False, verdict=verdict).run("m", context, made)
        for verdict in WAYS
    )
    check(plain, held, "judge/accuracy", "judge_card")


def made(name: str, make: Callable[[], Outcome]) -> Outcome:
    return make()
