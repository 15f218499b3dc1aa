"""Conversations with tools by a scripted teacher: what is kept, what is told to it, what goes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.cost import Estimate
from bezoar.errors import DataError
from bezoar.llm.types import Reply, Request
from bezoar.model.spec import Sampling
from bezoar.synth.tool_calls import Category, ToolCalls
from bezoar.synth.tools.grounding import ungrounded
from tests.helpers.asked import FAILED, Teacher, last

TEXT = {"type": "string", "description": "The city."}
WEATHER = Tool(
    "sky", "Get the clouds.", {"type": "object", "properties": {"city": TEXT}, "required": ["city"]}
)
CLOCK = Tool("clock", "Get the time.", {**WEATHER.parameters})


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def stage(tmp_path: Path, category: Category, num: int = 1, **more: Any) -> ToolCalls:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([tool.to_json() for tool in (WEATHER, CLOCK)]))
    more = {"retries": 0, "masked": 0.0} | more
    return ToolCalls(num, catalogue=str(path), shares={category: 1.0}, teacher="t", **more)


def teacher(answer: str | Callable[[Request], str | Reply], request: str = "Oslo?") -> Teacher:
    """Writes `request`, answers it by `answer`, and makes up a result and a reply that tells it."""

    def rule(asked: Request) -> str | Reply:
        text = asked.messages[0].content
        if "Write one message" in text:
            return request
        if "Make up what" in text:
            return '```json\n{"clouds": 7}\n```'
        if "[Results]" in text:
            return "There are 7 clouds."
        return answer if isinstance(answer, str) else answer(asked)

    return Teacher(rule)


def reason(stage: ToolCalls, ask: Teacher) -> str:
    found = stage.ask_teacher(ask, [], seed=1)
    assert not found.rows
    [dropped] = found.dropped
    return dropped.reason


def wanted(asked: Request) -> str:
    """The function that the request was written for; it alone stands in its prompt."""
    return json.loads(asked.messages[0].content.split("\n\n")[1])["name"]


def test_a_right_call_is_kept(tmp_path: Path) -> None:
    names: list[str] = []

    def rule(asked: Request) -> str:
        if "Write one message" in last(asked):
            names.append(wanted(asked))
            return "What about Oslo?"
        return call(names[-1], city="Oslo")

    [row] = stage(tmp_path, "single").ask_teacher(Teacher(rule), [], seed=1).rows
    assert [tool.name for tool in row.messages[0].tools] == names
    assert row.messages[1:] == (
        Message("user", "What about Oslo?"),
        Message("assistant", "", (ToolCall(names[0], {"city": "Oslo"}),)),
    )
    assert row.meta == {
        "scheme": "tool_calls",
        "category": "single",
        "functions": names,
        "masked": False,
    }


@pytest.mark.parametrize(
    ("category", "answer", "why"),
    [
        ("single", "I do not know.", "no call"),
        ("single", "<tool_call>\nnonsense\n</tool_call>", "unreadable call"),
        ("single", call("other", city="Oslo"), "does not fit the schema"),
        ("single", call("sky") + call("clock"), "does not fit the schema"),
        ("multiple", call("sky", city="Rome"), "value not in the request"),
        ("multiple", call("sky", city="Oslo") + call("clock", city="Oslo"), "other function"),
        ("parallel_multiple", call("sky", city="Oslo"), "other function"),
        ("irrelevance", call("sky", city="Oslo"), "call where none fits"),
        ("missing", "Tell me the city.", "no question"),
        ("single", "", "empty"),
    ],
)
def test_what_is_wrong_is_dropped_with_its_reason(
    tmp_path: Path, category: Category, answer: str, why: str
) -> None:
    ask = teacher(lambda asked: answer.replace("sky", offered_name(asked, answer)))
    assert reason(stage(tmp_path, category), ask) == why


def offered_name(asked: Request, answer: str) -> str:
    """`sky`, or the one tool that is offered where the answer needs one that is."""
    text = asked.messages[0].content
    return "sky" if '"name": "sky"' in text or "other" in answer else "clock"


def test_a_wrong_number_of_equal_calls_is_dropped(tmp_path: Path) -> None:
    def answer(asked: Request) -> str:
        return call(offered_name(asked, ""), city="Oslo") * 2

    ask = teacher(answer)
    assert reason(stage(tmp_path, "parallel"), ask) == "wrong number of calls"
    failed = teacher(lambda asked: FAILED)
    assert reason(stage(tmp_path, "single", retries=3), failed) == "unreachable"
    assert len(failed.seen) == 2


def test_a_wrong_call_is_told_and_mended(tmp_path: Path) -> None:
    def answer(asked: Request) -> str:
        name = offered_name(asked, "")
        if len(asked.messages) == 1:
            return call(name, city="Oslo", when="now")
        assert "has no parameter when" in last(asked) or "when" in last(asked)
        assert asked.messages[1].role == "assistant"
        return call(name, city="Oslo")

    ask = teacher(answer)
    [row] = stage(tmp_path, "single", retries=1).ask_teacher(ask, [], seed=1).rows
    assert [message.role for message in row.messages] == ["system", "user", "assistant"]
    # whether it is the function that was asked for is the check, which the teacher is not told
    other = teacher(call("sky", city="Oslo") + call("clock", city="Oslo"))
    assert reason(stage(tmp_path, "multiple", retries=3), other) == "other function"
    assert all(len(asked.messages) == 1 for asked in other.seen)


def test_results_are_simulated_where_there_is_no_stub(tmp_path: Path) -> None:
    ask = teacher(lambda asked: call(target(ask), city="Oslo"))

    def target(ask: Teacher) -> str:
        return wanted(next(r for r in ask.seen if "Write one message" in last(r)))

    [row] = stage(tmp_path, "conversation", masked=1.0).ask_teacher(ask, [], seed=1).rows
    assert row.meta["simulated"] is True
    assert [m.content for m in row.messages[3:]] == ['{"clouds": 7}', "There are 7 clouds."]
    [made] = row.messages[2].tool_calls
    assert made.name not in ("sky", "clock")
    assert "city" not in made.arguments


def test_stubs_of_the_catalogue_are_run() -> None:
    line = "Convert 180 degrees Celsius with a fan\n"

    def rule(asked: Request) -> str:
        text = asked.messages[0].content
        if "Write one message" in text:
            name = wanted(asked)
            return "Digits of 1234 please" if name == "digit_total" else line
        if "[Results]" in text:
            return "It is 10."
        return call("digit_total", number=1234)

    stage = ToolCalls(60, shares={"conversation": 1.0}, teacher="t", retries=0, masked=0.0)
    found = stage.ask_teacher(Teacher(rule), [], seed=4)
    assert {row.messages[-1].content for row in found.rows} <= {"It is 10."}
    for row in found.rows:
        assert row.messages[3] == Message("tool", '{"total": 10}')
        assert "simulated" not in row.meta


def test_tools_may_come_from_rows() -> None:
    chat = Chat("c", (Message("system", "", tools=(WEATHER,)), Message("user", "Hi")))
    stage = ToolCalls(
        2, shares={"chat": 1.0}, teacher="t", seeds="s", masked=0.0, answers=Sampling(0.5)
    )
    found = stage.ask_teacher(teacher(""), [chat, chat], seed=1)
    assert [row.messages[0].tools for row in found.rows] == [(WEATHER,)] * 2
    with pytest.raises(DataError, match="s: no row offers tools"):
        stage.ask_teacher(teacher(""), [], seed=1)
    few = ToolCalls(1, shares={"multiple": 1.0}, teacher="t", seeds="s")
    with pytest.raises(DataError, match="multiple needs 2 different functions, and there are 1"):
        few.ask_teacher(teacher(""), [chat], seed=1)


def test_settings_that_have_no_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="retries needs a teacher"):
        ToolCalls(1, retries=2)
    with pytest.raises(ValueError, match="leave one of them out"):
        ToolCalls(1, teacher="t", seeds="s", catalogue="own.json")
    path = tmp_path / "tools.jsonl"
    path.write_text(json.dumps(WEATHER.to_json()) + "\n")
    with pytest.raises(DataError, match=r"tools.jsonl:1: a declaration without requests"):
        ToolCalls(1, catalogue=str(path)).write(0)
    path.write_text(json.dumps({"name": "f", "parameters": {"type": "dict"}}) + "\n")
    with pytest.raises(DataError, match=r"tools.jsonl:1: the parameters of f are no JSON Schema"):
        ToolCalls(1, catalogue=str(path), teacher="t").ask_teacher(teacher(""), [], seed=1)
    assert ToolCalls(10).quote({}).rows == Estimate(10, 10, 10)
    assert ToolCalls(10, teacher="t").quote({}).requests[0][1].num.high == 2 * 2 * 9.7 + 2 * 2 * 0.7


@pytest.mark.parametrize(
    ("value", "text", "lost"),
    [
        ("Oslo", "in OSLO.", ""),
        ("Oslo", "in Rome", "Oslo"),
        (5, "five of them", ""),
        (1200, "about 1,200 g", ""),
        (0.05, "at 5 percent", ""),
        (0.05, "at 5 a piece", "0.05"),
        (7, "17 or 70", "7"),
        (True, "", ""),
        (["a b", "c"], "A-B and c", ""),
        ({"w": 3}, "4 wide", "3"),
        ("2026-03-09", "on 9 March 2026", ""),
        ("2026-03-09", "on 9 May 2026", "2026-03-09"),
        ("18:30", "at 6:30 pm", ""),
        ("18:30", "at 7:30 pm", "18:30"),
        ("", "", ""),
    ],
)
def test_values_are_found_in_what_was_said(value: Any, text: str, lost: str) -> None:
    assert ungrounded(value, text, {}) == lost
    assert ungrounded("in detail", "all of it", {"enum": ["in detail"]}) == ""
