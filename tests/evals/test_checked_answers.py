"""Answers to one's own rows that programs check: calls, use of results, JSON mode, citations."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from bezoar.chat.citations import Document, documents_prompt
from bezoar.chat.json_mode import json_prompt
from bezoar.chat.messages import with_tools
from bezoar.chat.templates import ChatML
from bezoar.chat.tool_calls import write_answer, write_call
from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.errors import DataError
from bezoar.evals.checked_answers import CheckedAnswers, checked, first_items
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.outcome import EvalContext, Outcome
from bezoar.llm.types import Reply, Request
from bezoar.synth.cited_answers import CitedAnswers
from bezoar.synth.json_mode import JSONMode
from bezoar.synth.tool_calls import ToolCalls

SPIN = Tool("spin", "Spins.", {"type": "object", "properties": {"n": {"type": "integer"}}})
CALL = ToolCall("spin", {"n": 2})
TALK = Chat(
    "talk",
    with_tools(
        (
            Message("user", "Spin twice, please."),
            Message("assistant", "", (CALL, ToolCall("spin", {"n": 5}))),
            Message("tool", '{"side": "red", "turns": 2}'),
            Message("tool", '{"side": "green"}'),
            Message("assistant", "Red, then green."),
            Message("user", "Thanks!"),
            Message("assistant", "You are welcome."),
        ),
        [SPIN],
    ),
)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FORM = Chat(
    "form", (json_prompt(SCHEMA), Message("user", "Ann."), Message("assistant", '{"name": "Ann"}'))
)
PAPERS = [Document("Bees", "Bees make honey. They fly."), Document("Ants", "Ants walk. Bees fly.")]
CITED = Chat(
    "cited",
    (
        *documents_prompt("What do bees do?", PAPERS),
        Message(
            "assistant", "Bees <co:0>make honey</co>, and <co:0>they fly</co>.\nCited Documents: 0"
        ),
    ),
)
UNKNOWN = Chat(
    "unknown",
    (
        *documents_prompt("And wasps?", PAPERS),
        Message("assistant", "Unsaid.\nCited Documents: none"),
    ),
)
PLAIN = Chat("plain", (Message("user", "Hi"), Message("assistant", "Hello")))
ROWS = [TALK, FORM, CITED, UNKNOWN, PLAIN]


def context(texts: Sequence[str], rows: Sequence[Chat] = ROWS) -> EvalContext:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        assert all(request.temperature == 0 for request in requests)
        return [Reply(text) for text in texts]

    return EvalContext(
        ChatML(),
        open_model=lambda name: None,
        ask_model=lambda name: ask,
        ask=lambda name: ask,
        rows=lambda name: rows,
    )


def measured(texts: Sequence[str], **more: Any) -> Outcome:
    return Evaluate("m", checked_answers=CheckedAnswers("rows", **more)).measure(context(texts))


def test_each_turn_is_asked_with_the_turns_before_it_by_what_it_is() -> None:
    items, unchecked = first_items(ROWS, None)
    assert [(item.id, item.group, len(item.prompt)) for item in items] == [
        ("talk/2", "tool calls", 2),
        ("talk/5", "results of calls", 5),
        ("talk/7", "no call needed", 7),
        ("form/2", "JSON mode", 2),
        ("cited/2", "cited documents", 2),
        ("unknown/2", "cited documents", 2),
    ]
    assert unchecked == 1
    assert len(first_items(ROWS, 1)[0]) == 5


@pytest.mark.parametrize(
    ("turn", "answer", "kind"),
    [
        (0, write_call(ToolCall("spin", {"n": 5})) + write_call(CALL), ""),
        (0, write_call(CALL), "wrong count"),
        (0, write_call(CALL) * 2, "wrong value"),
        (0, "Spinning!", "no call"),
        (1, "It shows RED and then green.", ""),
        (1, "First green, then 2 turns.", ""),
        (1, "Only green.", "result not used"),
        (1, write_call(CALL), "needless call"),
        (2, "Gladly.", ""),
        (2, write_call(CALL), "needless call"),
        (3, ' {"name": "Ann"}\n', ""),
        (3, '{"name": "Bob"}', "wrong value"),
        (3, '{"name": 3}', "does not fit the schema"),
        (3, '{"name": "Ann", "age": 3}', "does not fit the schema"),
        (3, '["Ann"]', "does not fit the schema"),
        (3, 'Sure: {"name": "Ann"}', "bad JSON"),
        (4, "They <co:0>make honey.</co>\nCited Documents: 0", ""),
        (4, "They <co: 0>make honey</co: 0>\nCited Documents: 0", ""),
        (4, "They <co:0>make honey</co>", "wrong closing line"),
        (4, "They <co:0>make wax</co>\nCited Documents: 0", "wrong citation"),
        (4, "They <co:1>Bees fly</co>\nCited Documents: 1", "wrong citation"),  # another document
        (4, "They <co:7>fly</co>\nCited Documents: 7", "wrong citation"),
        (4, "They make honey.\nCited Documents: 0", "no citation"),
        (5, "Nobody knows.\nCited Documents: none", ""),
        (5, "They <co:1>walk</co>\nCited Documents: 1", "wrong citation"),
    ],
)
def test_an_answer_by_what_is_wrong_with_it(turn: int, answer: str, kind: str) -> None:
    item = first_items(ROWS, None)[0][turn]
    assert item.check(item, answer).kind == kind


def test_figures_with_what_each_counts() -> None:
    half = "Bees <co:0>make honey</co>, <co:1>Ants walk</co>.\nCited Documents: 0, 1"
    texts = ["Spin.", "Red, green.", "Gladly.", '{"name": "Bob"}', half, "<co:0>they fly</co>"]
    outcome = measured(texts)
    figures = {s.name: (s.value, s.n) for s in outcome.scores}
    assert figures == {
        "tool calls/accuracy": (0.0, 1),
        "results of calls/accuracy": (1.0, 1),
        "no call needed/accuracy": (1.0, 1),
        "JSON mode/accuracy": (0.0, 1),
        "JSON mode/valid by schema": (1.0, 1),
        "cited documents/accuracy": (0.0, 2),
        "cited documents/citation precision": (pytest.approx(1 / 3), 3),
    }
    facts = outcome.info["checked_answers"]
    assert facts["kinds"]["cited documents"] == {"wrong citation": 2}
    assert facts["examples"]["wrong value"][0]["text"] == '{"name": "Bob"}'
    assert "1 rows have no tools" in facts["remarks"][0]
    assert facts["conditions"].keys() == {name.split("/")[0] for name in figures}
    assert outcome.texts["JSON mode"] == [("form/2", "Ann.", '{"name": "Ann"}')]
    values = {(i["benchmark"], i["id"]): i["value"] for i in outcome.items}
    assert values["cited documents/citation precision", "cited/2"] == 0.5


def test_an_answer_that_could_not_be_had_is_no_wrong_one() -> None:
    items, _ = first_items(ROWS, None)
    outcome = checked(items[:2], [None, "Red, green."])
    assert [(s.value, s.num_failed) for s in outcome.scores] == [(None, 1), (1.0, 0)]


def test_rows_that_nothing_can_be_checked_in_are_refused() -> None:
    stage = Evaluate("m", checked_answers=CheckedAnswers("rows"))
    with pytest.raises(DataError, match="no row of rows has tools, a JSON Schema or documents"):
        stage.measure(context([], [PLAIN]))


def test_the_shipped_schemes_own_answers_are_right() -> None:
    rows = [
        *ToolCalls(80).write(3).rows,
        *JSONMode(20).write(3).rows,
        *CitedAnswers(20).write(3).rows,
    ]
    items, unchecked = first_items(rows, None)
    outcome = checked(items, [write_answer(item.answer) for item in items])
    assert {item.group for item in items} == {
        "tool calls",
        "results of calls",
        "no call needed",
        "JSON mode",
        "cited documents",
    }
    assert unchecked == 0
    assert {s.name: s.value for s in outcome.scores} == dict.fromkeys(
        [s.name for s in outcome.scores], 1.0
    ), json.dumps(outcome.info["checked_answers"]["examples"], indent=1)
