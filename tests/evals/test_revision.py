"""The win rate of revisions: models whose revisions get better, stay the same, or cannot be read,
and a judge with a bias."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message, SampledAnswers
from bezoar.errors import DataError
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.judges import PairJudge, asked_judge
from bezoar.evals.outcome import EvalContext, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.revision import Revision
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.pairwise import Pairwise

FIRST = [
    Chat(str(i), (Message("user", f"Question {i}?"), Message("assistant", f"{i}: quality 0")))
    for i in range(8)
]


class Asked:
    """An `Ask` by a rule from text to text; `seen` are the texts."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule, self.seen = rule, list[str]()

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        texts = [r.messages[-1].content for r in requests]
        self.seen += texts
        return [Reply(self.rule(text)) for text in texts]


def quality(text: str, name: str) -> int:
    found = re.search(rf"\[{name}\]\n[^\n]*quality (-?\d+)", text)
    assert found
    return int(found[1])


def reviser(step: Callable[[int, int], int | None]) -> Asked:
    """Adds `step(item, quality)` to an answer's quality, or writes nothing that can be read."""

    def rule(text: str) -> str:
        number, now = int(text.split("[Answer]\n")[1].split(":")[0]), quality(text, "Answer")
        by = step(number, now)
        return (
            "I would rather not."
            if by is None
            else f"Critique: quality is {now}.\nRevision: {number}: quality {now + by}"
        )

    return Asked(rule)


def fair(text: str) -> str:
    a, b = quality(text, "Answer A"), quality(text, "Answer B")
    return "[[A]]" if a > b else "[[B]]" if b > a else "[[C]]"


def told(judge: "Asked") -> PairJudge:
    return asked_judge(Pairwise("judge"), judge, "a judge")


def values(found: Outcome) -> dict[str, float | None]:
    return {
        s.name: s.value
        for s in found.scores
        if re.fullmatch(r"revision \d/win rate( over the one before)?", s.name)
    }


def test_revisions_that_get_better_win() -> None:
    # items 0 and 1 stay, 2 gets worse, 5 better; a second round undoes what the first did to item 7
    model = reviser(lambda i, now: 0 if i < 2 else -1 if i == 2 or (i == 7 and now) else 1)
    judge = Asked(fair)
    found = Revision(judge="judge", times=3).measure(FIRST, model, told(judge))
    assert values(found) == {
        "revision 1/win rate": (5 + 1) / 8,
        "revision 2/win rate": (4 + 1.5) / 8,
        "revision 3/win rate": (5 + 1) / 8,
    }
    score = next(s for s in found.scores if s.name == "revision 1/win rate")
    assert score.n == 8
    assert score.low is not None
    assert score.high is not None
    assert score.low < 0.75 < score.high
    facts = found.info["revision"]
    assert facts["iterations"][0] == {"unchanged": 2, "identical": 2, "failures": 0, "reasons": {}}
    assert [i["identical"] for i in facts["iterations"]] == [2, 3, 2]
    assert [i["unchanged"] for i in facts["iterations"]] == [2, 2, 2]
    assert (facts["not_made"], facts["stopped"]) == ([], "")
    assert len(judge.seen) == 2 * (6 + 5 + 6)  # equal answers are not judged
    item = next(
        i for i in found.items if i["benchmark"] == "revision 2/win rate" and i["id"] == "5"
    )
    assert (item["critique"], item["revision"], item["value"]) == (
        "quality is 1.",
        "5: quality 2",
        1.0,
    )
    assert all(i["benchmark"] in values(found) for i in found.items)
    # the second round reads the first one's answers
    assert sum("5: quality 1\n" in text for text in model.seen) == 1


def test_a_constant_model_ties_and_stops() -> None:
    judge = Asked(fair)
    found = Revision(judge="judge").measure(FIRST, reviser(lambda i, now: 0), told(judge))
    assert values(found) == {"revision 1/win rate": 0.5}
    facts = found.info["revision"]
    assert (facts["not_made"], facts["stopped"]) == ([2, 3, 4, 5], "iteration 1 changed no answer")
    assert facts["iterations"][0]["identical"] == 8
    assert judge.seen == []


def test_a_judge_that_goes_by_position_finds_nothing() -> None:
    for lean in ("[[A]]", "[[B]]"):
        judge = Asked(lambda text, lean=lean: lean)  # type: ignore[misc]
        found = Revision(judge="judge", times=2).measure(
            FIRST, reviser(lambda i, now: 1), told(judge)
        )
        assert values(found) == {"revision 1/win rate": None, "revision 2/win rate": None}
        first = next(s for s in found.scores if s.name == "revision 1/win rate/first position")
        assert first.value == float(lean == "[[A]]")
        stopped = Revision(judge="judge", times=2, stop="no_gain").measure(
            FIRST, reviser(lambda i, now: 1), told(judge)
        )
        assert stopped.info["revision"]["not_made"] == [2]  # one half is no gain


def test_a_weak_judge_is_read_free_of_its_pull() -> None:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        texts = [r.messages[-1].content for r in requests]
        return [
            Reply(logprobs=(9.0 + quality(t, "Answer A"), float(quality(t, "Answer B")), -20.0))
            for t in texts
        ]

    judge = asked_judge(Pairwise("judge", verdict="logprob"), ask, "a judge")
    # two stay, one gets worse, five better, and the first answer shown is always named
    found = Revision(judge="judge", times=1).measure(
        FIRST, reviser(lambda i, now: 0 if i < 2 else -1 if i == 2 else 1), judge
    )
    assert values(found) == {"revision 1/win rate": None}
    free = next(s for s in found.scores if s.name == "revision 1/win rate/free of position")
    assert (free.value, free.n) == ((5 + 0.5 * 2) / 8, 8)


def test_unread_revisions_keep_the_answer_and_are_counted() -> None:
    found = Revision(judge="judge", times=2).measure(
        FIRST, reviser(lambda i, now: 1 if i < 2 else None), told(Asked(fair))
    )
    assert values(found) == {"revision 1/win rate": (2 + 3) / 8, "revision 2/win rate": (2 + 3) / 8}
    facts = found.info["revision"]["iterations"][0]
    assert facts == {"unchanged": 6, "identical": 6, "failures": 6, "reasons": {"no critique": 6}}
    assert next(i for i in found.items if i["id"] == "7")["failure"] == "no critique"


def test_the_stop_rule_compares_with_the_iteration_before() -> None:
    model = reviser(lambda i, now: 2 if now == 0 else -1)
    found = Revision(judge="judge", times=4, stop="no_gain").measure(
        FIRST, model, told(Asked(fair))
    )
    # better than the original twice, but the second round is worse than the first
    assert values(found) == {
        "revision 1/win rate": 1.0,
        "revision 1/win rate over the one before": 1.0,
        "revision 2/win rate": 1.0,
        "revision 2/win rate over the one before": 0.0,
    }
    facts = found.info["revision"]
    assert (facts["not_made"], facts["stopped"]) == (
        [3, 4],
        "iteration 2 is not better than the one before",
    )
    assert (
        len(values(Revision(judge="judge", times=4).measure(FIRST, model, told(Asked(fair))))) == 4
    )


def test_a_missing_first_answer_is_a_failure() -> None:
    model = reviser(lambda i, now: 1)
    found = Revision(judge="judge", times=1).measure(
        [*FIRST, Chat("x", (Message("user", "Why?"),))], model, told(Asked(fair))
    )
    score = found.scores[0]
    assert (score.value, score.n, score.num_failed) == (1.0, 8, 1)
    assert found.info["revision"]["iterations"][0]["reasons"] == {"no answer": 1}
    assert len(model.seen) == 8


QUESTIONS = [
    {"question_id": 1, "category": "math", "turns": ["1+1?", "And +1?"], "reference": ["2", "3"]},
    {"question_id": 2, "category": "writing", "turns": ["Write.", "Again."]},
]


def answer_file(folder: Path, *answers: dict[str, Any]) -> str:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(json.dumps(a) for a in answers))
    return str(path)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "question.jsonl"
    path.write_text("\n".join(json.dumps(q) for q in QUESTIONS))
    return str(path)


def given(
    model: Asked, judge: Asked, rows: Sequence[Any] = (), said: list[str] | None = None
) -> EvalContext:
    class Told:
        def say(self, text: str) -> None:
            if said is not None:
                said.append(text)

    return EvalContext(
        ChatML(),
        lambda name: None,
        lambda name: model,
        lambda name: judge,
        lambda name: rows,
        progress=Told(),
    )  # type: ignore[arg-type]


def test_answers_of_any_model_in_fastchats_format(tmp_path: Path, questions: str) -> None:
    path = answer_file(
        tmp_path,
        {"question_id": 1, "choices": [{"turns": ["1: quality 1", "1: quality 2"]}]},
        {"question_id": 2, "choices": [{"turns": ["2: quality 5", "$ERROR$"]}]},
    )
    model, judge, said = reviser(lambda i, now: 1), Asked(fair), list[str]()
    section = Revision(judge="judge", times=1, answers=path, questions=questions, turn=2)
    stage = Evaluate("any", revision=section)
    found = stage.measure(given(model, judge, said=said))
    assert values(found) == {"revision 1/win rate": 1.0}
    assert found.scores[0].num_failed == 1
    assert said[0] == "revision 1: 1 of 2 answers were not revised."
    assert (
        "User: 1+1?\n\nAssistant: 1: quality 1\n\nUser: And +1?\n\n[Answer]\n1: quality 2\n"
        in model.seen[0]
    )
    assert "A correct solution, for comparison:\n2\n\n3" in judge.seen[0]
    assert "A correct solution" not in model.seen[0]
    assert found.texts["revision"] == [("1", "And +1?", ""), ("2", "Again.", "")]
    assert stage.detectable({}) == {"revision": detectable(2, 0.5)}
    path = answer_file(tmp_path, {"question_id": 1, "choices": [{"turns": ["1: quality 1"]}]})
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer \(2, "):
        Revision(judge="judge", answers=path, questions=questions).first(given(model, judge), "any")


def own_answers() -> Asked:
    return Asked(lambda text: f"says {text}")


def test_rows_of_a_stage_and_the_models_own_answers(questions: str) -> None:
    rows = [
        Comparison(str(i), (Message("user", "Why?"),), f"{i}: quality 0", "no") for i in range(4)
    ]
    world = given(reviser(lambda i, now: 1), Asked(fair), rows)
    first = Revision(judge="judge", rows="pairs", limit=3).first(world, "any")
    assert [c.answer for c in first] == ["0: quality 0", "1: quality 0", "2: quality 0"]
    sampled = [SampledAnswers("s", (Message("user", "Why?"),), ("a", "b"), {})]
    with pytest.raises(DataError, match="it holds sampled answers"):
        Revision(judge="judge", rows="draws", limit=3).first(
            given(own_answers(), Asked(fair), sampled), "any"
        )
    own = own_answers()
    first = Revision(judge="judge", questions=questions).first(given(own, Asked(fair)), "any")
    assert [c.answer for c in first] == ["says 1+1?", "says Write."]


def test_settings_without_meaning() -> None:
    with pytest.raises(ValueError, match="one of answers, rows and by"):
        Revision(judge="judge", answers="a.jsonl", by="base")
    for keys in ({}, {"judge": "judge", "reward_model": "rm"}):
        with pytest.raises(ValueError, match="a judge or a reward_model"):
            Revision(**keys)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit is needed with rows"):
        Revision(judge="judge", rows="pairs")


def test_the_plan_counts_rounds_and_games(questions: str) -> None:
    calls = Revision(judge="judge", times=3, questions=questions).quote({})
    assert [(name, c.num.low, c.num.high) for name, c in calls] == [
        ("", 2, 2),
        ("", 2, 6),
        ("judge", 4, 12),
    ]
    assert [name for name, _ in Revision(judge="judge", rows="r", limit=9).quote({})] == [
        "",
        "judge",
    ]
    assert (
        Revision(judge="judge", times=3, questions=questions, stop="no_gain")
        .quote({})[-1][1]
        .num.high
        == 24
    )
