"""Scores of verdicts that were held to a form, beside those of others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bezoar.chat.citations import Document, documents_prompt
from bezoar.chat.json_mode import json_prompt
from bezoar.chat.messages import with_tools
from bezoar.chat.templates import ChatML
from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import Chat, Comparison, Message, Tool, ToolCall
from bezoar.evals.checked_answers import CheckedAnswers
from bezoar.evals.comparison import Measured, condition, unlike
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, remarks
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.win_rate import WinRate
from bezoar.llm.local import StackBackend
from bezoar.llm.types import Reply, Request
from bezoar.model.spec import ModelSpec
from bezoar.model.structured_output import StructuredOutput
from bezoar.synth.json_mode import JSONMode
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


def test_answers_under_a_form_are_said_to_be() -> None:
    """Calls and JSON are asked for in the form of the conversation, other answers freely."""
    tool = Tool("add", "", {"type": "object", "properties": {"a": {"type": "integer"}}})
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    call = Message("assistant", "", (ToolCall("add", {"a": 1}),))
    user = Message("user", "q")
    chats = [
        Chat("call", with_tools((user, call), [tool])),
        Chat("json", (json_prompt(schema), user, Message("assistant", '{"a": 1}'))),
    ]
    asked: list[Request] = []

    def model(requests: list[Request]) -> list[Reply]:
        asked.extend(requests)
        return [Reply(write_answer(call)) for _ in requests]

    none = lambda name: None  # noqa: E731
    context = EvalContext(ChatML(), none, lambda name: model, none, lambda name: chats)  # type: ignore[arg-type,return-value]
    plain, held = (
        CheckedAnswers(rows="rows", structured=structured).run("m", context, made)
        for structured in (False, True)
    )
    assert [request.form for request in asked[:2]] == [None, None]
    assert asked[2].form == StructuredOutput.calls([tool])
    assert asked[3].form == StructuredOutput.schema(
        {"type": "object", "additionalProperties": False, **schema}
    )
    name = "tool calls/accuracy"
    assert condition(plain.info, name) != condition(held.info, name)
    assert condition(held.info, name)["held to a form"] == "answers"
    told = "checked_answers: answers were held to a form while they were drawn."
    assert told in remarks(held.info)
    assert told not in remarks(plain.info)


def with_and_without(model: str, rows: list[Chat], max_tokens: int) -> list[Outcome]:
    """A model's answers to rows, drawn freely and held to their forms."""
    from bezoar.model.stack import Stack

    backend = StackBackend(Stack(ModelSpec(model, dtype="float32"), device="cpu"), ChatML())

    def ask(requests: list[Request]) -> list[Reply]:
        return [reply for _, reply in next(backend.answer(requests))]

    none = lambda name: None  # noqa: E731
    context = EvalContext(ChatML(), none, lambda name: ask, none, lambda name: rows)  # type: ignore[arg-type,return-value]
    sections = [CheckedAnswers("rows", None, max_tokens, held) for held in (False, True)]
    return [section.run("m", context, made) for section in sections]


def values(outcome: Outcome) -> dict[str, float | None]:
    return {score.name: score.value for score in outcome.scores}


def test_noise_is_valid_where_it_is_held_to_a_schema(roomy_model: Path) -> None:
    """And what has no form is drawn, and compared, as it is without."""
    number, name = {"type": "integer", "minimum": 0, "maximum": 99}, {"enum": ["Ann", "Bob"]}
    schema = {"type": "object", "properties": {"n": number, "who": name}, "required": ["n", "who"]}
    rows = [
        Chat("json", (json_prompt(schema), Message("user", "5"), Message("assistant", "{}"))),
        Chat(
            "cited",
            (
                *documents_prompt("Who flies?", [Document("Bees", "Bees fly.")]),
                Message("assistant", "<co:0>Bees</co>\nCited Documents: 0"),
            ),
        ),
    ]
    plain, held = with_and_without(str(roomy_model), rows, 40)
    valid = "JSON mode/valid by schema"
    assert values(plain)[valid] == 0.0
    assert values(held)[valid] == 1.0
    assert "held to a form" in condition(held.info, valid)
    cited = "cited documents/accuracy"
    assert condition(held.info, cited) == condition(plain.info, cited)
    wrong = [o.info["checked_answers"]["examples"]["no citation"][0]["text"] for o in (plain, held)]
    assert wrong[0] == wrong[1]
    assert not remarks(with_and_without(str(roomy_model), rows[1:], 40)[1].info)


@pytest.mark.real
def test_json_mode_of_a_real_model() -> None:
    """What is not valid then is what was cut off."""
    plain, held = with_and_without("smollm2-135m-instruct", JSONMode(6).write(5).rows, 160)
    valid = "JSON mode/valid by schema"
    assert values(plain)[valid] == 0.0
    assert (values(held)[valid] or 0) > 0.8
    assert held.info["checked_answers"]["kinds"]["JSON mode"].keys() <= {"wrong value", "bad JSON"}
