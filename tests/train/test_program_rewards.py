"""Rewards that are programs, case by case."""

from typing import Any

import pytest

from bezoar.chat.json_mode import json_prompt
from bezoar.chat.messages import Tool, ToolCall, with_tools
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.train.rewards import Instructions, JSONAnswer, Number, ToolCallReward
from bezoar.train.rewards.number import numbers_in
from bezoar.train.rewards.program import Program, check_rows
from bezoar.verdicts.instructions import INSTRUCTIONS, read_instruction

ASKED = (Message("user", "go"),)


def row(*messages: Message, **meta: Any) -> Chat:
    return Chat("x", messages or ASKED, meta)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("#### 42", [42]),
        ("it is 1,234,567.50 in all.", [1234567.5]),
        ("1,2 and 3", [1, 2, 3]),
        ("from 5-3 = -2", [5, 3, -2]),
        ("−7 or .5", [-7, 0.5]),
        (r"\boxed{3e2}", [300]),
        ("version 2.", [2]),
    ],
)
def test_numbers_of_a_text(text: str, found: list[float]) -> None:
    assert numbers_in(text) == found


def test_the_last_number_counts() -> None:
    reward = Number()
    assert reward.score(row(number=42), "6 times 7 is 42.") == 1.0
    assert reward.score(row(number="42"), "42.0") == 1.0
    assert reward.score(row(number=42), "42, no, 41") == 0.0
    assert reward.score(row(number=0), "none") == 0.0
    for bad in (True, None, "1 or 2", "x", float("nan"), [1]):
        with pytest.raises(ValueError, match="not one number"):
            reward.read(row(number=bad))


TOOL = Tool(
    "weather",
    "The weather",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
PROMPT = with_tools((Message("user", "weather in Rome?"),), [TOOL])


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_calls_by_the_rules_of_the_evaluation() -> None:
    reward = ToolCallReward()
    right = Message("assistant", "", (ToolCall("weather", {"city": "Rome"}),))
    asked = row(*PROMPT, right)
    assert reward.score(asked, call("weather", '{"city": "Rome"}')) == 1.0
    for wrong in (
        "",
        "Rome is sunny.",
        call("wether", '{"city": "Rome"}'),
        call("weather", '{"city": "Paris"}'),
        call("weather", "{}"),
        call("weather", '{"city": "Rome"'),
        call("weather", '{"city": "Rome"}') * 2,
    ):
        assert reward.score(asked, wrong) == 0.0
    talk = row(*PROMPT, Message("assistant", "Hello."))
    assert reward.score(talk, "Good day.") == 1.0
    assert reward.score(talk, call("weather", '{"city": "Rome"}')) == 0.0
    for bad, fault in ((row(), "no tool is offered"), (row(*PROMPT), "ends with an answer")):
        with pytest.raises(DataError, match=f"row x: .*{fault}; the reward tool_call needs it"):
            check_rows([reward], [bad])


def test_json_by_the_schema_of_the_row() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = row(json_prompt(schema), *ASKED, Message("assistant", '{"n": 3}'))
    valid, equal = JSONAnswer(), JSONAnswer(equal=True)
    for text, fits, same in (
        ('{"n": 3}', 1.0, 1.0),
        ('{"n": 4}', 1.0, 0.0),
        ('{"n": "3"}', 0.0, 0.0),
        ('{"n": 3, "m": 1}', 0.0, 0.0),
        ("[3]", 0.0, 0.0),
        ('Here: {"n": 3}', 0.0, 0.0),
        ("", 0.0, 0.0),
    ):
        assert (valid.score(asked, text), equal.score(asked, text)) == (fits, same)
    with pytest.raises(DataError, match="holds no <schema>; the reward json needs it"):
        check_rows([valid], [row()])
    with pytest.raises(DataError, match="its own answer is no JSON"):
        check_rows([equal], [row(json_prompt(schema), *ASKED)])


KEPT: dict[str, tuple[Any, str, str]] = {
    "at_least_words": (3, "one two three", "one two"),
    "at_most_words": (2, "one two", "one two three"),
    "sentences": (2, "It costs 3.50 here. Dr No left!", "One. Two. Three."),
    "paragraphs": (2, "one\n\ntwo", "one\ntwo"),
    "bullets": (2, "* a\n* b", "* a\nb"),
    "keyword": ("cat", "The Cat sat", "category"),
    "forbidden": ("cat", "category", "a cat."),
    "begins_with": ("Well,", "Well, yes", "Oh well,"),
    "ends_with": ("Bye.", "So long. Bye.", "Bye. Yes"),
    "lowercase": (None, "all small 1", "Not all"),
    "uppercase": (None, "ALL LARGE 1", "Not ALL"),
    "no_commas": (None, "a b", "a, b"),
    "quotation": (None, '"quoted"', 'a "quoted" b'),
    "json": (None, '{"a": [1]}', "a: 1"),
    "two_answers": (None, "one ****** two", "one ****** one"),
}


@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_an_instruction_is_kept_or_not(kind: str) -> None:
    argument, good, bad = KEPT[kind]
    value = {"kind": kind} | ({} if argument is None else {"value": argument})
    reward, asked = Instructions(), row(instructions=[value])
    assert reward.score(asked, f"  {good}\n") == 1.0
    assert reward.score(asked, bad) == 0.0
    assert reward.score(asked, " ") == 0.0
    both = row(instructions=[value, {"kind": "forbidden", "value": "zebra"}])
    assert reward.score(both, bad) == 0.5


def test_instructions_that_do_not_exist_are_refused() -> None:
    faults = [
        ({"kind": "rhyme"}, "there is no instruction 'rhyme'; known are"),
        ({"kind": "bullets"}, "bullets needs value: a whole number"),
        ({"kind": "bullets", "value": True}, "needs value: a whole number"),
        ({"kind": "bullets", "value": 0}, "needs value: a whole number"),
        ({"kind": "keyword", "value": ""}, "needs value: a text"),
        ({"kind": "json", "value": 1}, "json needs no value"),
        ("json", "there is no instruction None"),
    ]
    for value, fault in faults:
        with pytest.raises(ValueError, match=fault):
            read_instruction(value)
    programs: list[Program] = [Instructions()]
    for meta in ({}, {"instructions": []}, {"instructions": [{"kind": "rhyme"}]}):
        with pytest.raises(DataError, match=r"row x: meta.instructions.*the reward instructions"):
            check_rows(programs, [row(**meta)])
