"""Tool calls as text and back: what a model writes is read by vLLM's rules and never raises."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bezoar.chat.messages import offered, with_tools
from bezoar.chat.tool_calls import BadCall, read_answer, read_calls, write_answer
from bezoar.chat.types import Chat, Message, Tool, ToolCall, row_to_item
from bezoar.errors import DataError
from bezoar.judge.filter import record
from bezoar.judge.mixture import num_words
from bezoar.llm.budget import Prices
from bezoar.llm.types import Request
from bezoar.parquet import read_parquet, write_parquet
from bezoar.verdicts.pairwise import conversation

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "The weather of a city.", SCHEMA)
OSLO = ToolCall("weather", {"city": 'Ås "north"\n', "days": [1, {"x": None}]})
USER = Message("user", "How is it?")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("assistant", "Hi"), "Hi"),
        (
            Message("assistant", "", (ToolCall("f", {}),)),
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        ),
        (
            Message("assistant", "I look.", (ToolCall("f", {"a": "é"}), ToolCall("g", {"b": 1.5}))),
            'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'
            '\n<tool_call>\n{"name": "g", "arguments": {"b": 1.5}}\n</tool_call>',
        ),
        (
            Message("assistant", "", (ToolCall("f", {"a": "</tool_call>"}),)),
            '<tool_call>\n{"name": "f", "arguments": {"a": "<\\/tool_call>"}}\n</tool_call>',
        ),
    ],
)
def test_an_answer_is_written_name_first_and_read_back(message: Message, text: str) -> None:
    assert write_answer(message) == text
    assert read_answer(text) == message


@pytest.mark.parametrize("content", ["", "a", " a \n", "\n", "<think>\nx\n</think>\n\nb"])
@pytest.mark.parametrize("num_calls", [0, 1, 3])
def test_reading_undoes_writing_whatever_the_white_space(content: str, num_calls: int) -> None:
    message = Message("assistant", content, (OSLO,) * num_calls)
    assert read_answer(write_answer(message)) == message


def test_a_last_call_that_is_not_closed_counts_and_words_behind_calls_do_not() -> None:
    one = write_answer(Message("assistant", "See:", (OSLO,)))
    assert read_answer(one.removesuffix("</tool_call>")).tool_calls == (OSLO,)
    assert read_answer(f"{one} and more").content == "See:"
    assert read_answer('<tool_call>{"arguments":{"a":1},"name":"f"}</tool_call>').tool_calls == (
        ToolCall("f", {"a": 1}),
    )


@pytest.mark.parametrize(
    ("inner", "fault"),
    [
        ("{'name': 'f', 'arguments': {}}", "bad JSON"),
        ('{"name": "f", "arguments": {}', "bad JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "bad JSON"),
        ("[" * 200_000, "bad JSON"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "bad JSON"),
        ("", "bad JSON"),
        ("[1]", "no object"),
        ('{"arguments": {}}', "no name"),
        ('{"name": 5, "arguments": {}}', "no name"),
        ('{"name": "f"}', "arguments are no object"),
        ('{"name": "f", "arguments": "{}"}', "arguments are no object"),
    ],
)
def test_one_bad_call_makes_all_of_it_content_and_keeps_its_fault(inner: str, fault: str) -> None:
    good = write_answer(Message("assistant", "", (OSLO,)))
    text = f"Now\n{good}\n<tool_call>{inner}</tool_call>"
    assert read_answer(text) == Message("assistant", text)
    first, second = read_calls(text)
    assert first == OSLO
    assert isinstance(second, BadCall)
    assert (second.text, second.fault) == (inner, fault)


def test_a_thousand_damaged_answers_are_read_without_an_error() -> None:
    random = Random(7)
    whole = write_answer(Message("assistant", "See:", (OSLO, ToolCall("g", {"deep": [{}, []]}))))
    bits = ["<tool_call>", "</tool_call>", '"', "{", "}", "\\", "\n", "\ud800", "\\ud800", ",", "é"]
    num_read = 0
    for _ in range(1000):
        text = whole
        for _ in range(random.randint(1, 4)):
            at, cut = random.randrange(len(text) + 1), random.choice([0, 1, 9, 99])
            text = text[:at] + random.choice(["", *bits]) + text[at + cut :]
        answer = read_answer(text)
        assert answer.content == text or answer.tool_calls
        assert all(isinstance(call, ToolCall | BadCall) for call in read_calls(text))
        num_read += bool(answer.tool_calls)
    assert 50 < num_read < 950


@pytest.mark.parametrize("value", [WEATHER.to_json(), WEATHER.to_json()["function"]])
def test_a_tool_is_read_from_either_form(value: dict[str, Any]) -> None:
    tool = Tool.from_json(value)
    assert tool == WEATHER
    assert hash(tool) == hash(WEATHER)
    assert Tool.from_json({"name": "now", "parameters": None}) == Tool("now")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "f",
        [],
        {},
        {"function": "f"},
        {"name": ""},
        {"name": 1},
        {"name": "f", "parameters": "x"},
    ],
)
def test_what_is_no_tool_is_refused_in_one_sentence(value: Any) -> None:
    with pytest.raises(DataError, match=r"^(a tool|tool f)[^.]*\.$"):
        Tool.from_json(value)


def test_tools_stand_on_the_system_message_and_are_kept_in_parquet(tmp_path: Path) -> None:
    prompt = with_tools((USER,), [WEATHER])
    assert prompt[0] == Message("system", "", tools=(WEATHER,))
    assert offered(with_tools((Message("system", "Be brief."), USER), [WEATHER])) == (WEATHER,)
    assert with_tools((USER,), []) == (USER,)
    chats = [
        Chat("a", (USER, Message("assistant", "Fine."))),
        Chat("b", (*prompt, Message("assistant", "", (OSLO,)))),
    ]
    write_parquet(tmp_path / "rows.parquet", [chat.to_row() for chat in chats])
    assert [row_to_item(row) for row in read_parquet(tmp_path / "rows.parquet")] == chats
    assert chats[1].answer == write_answer(chats[1].messages[-1])
    assert chats[1].prompt == prompt


def test_lengths_prices_and_judges_count_tools_and_calls() -> None:
    called = (*with_tools((USER,), [WEATHER]), Message("assistant", "", (OSLO,)), USER)
    chat = Chat("a", (*called, Message("assistant", "Fine.")))
    bare = Chat("b", (USER, Message("assistant", "", ()), USER, Message("assistant", "Fine.")))
    assert num_words(chat) > num_words(bare) + 10
    price = Prices(1.0, 1.0)
    assert price.most_usd(Request(called)) > price.most_usd(Request(bare.prompt)) + 100e-6
    assert "The weather of a city." in record(chat)
    assert "<tool_call>" in record(chat)
    assert "<tool_call>" in conversation(chat.messages)


def test_a_row_without_tools_is_what_it_was_and_so_is_its_journal_key() -> None:
    assert Chat("a", (USER,)).to_row()["messages"] == [
        {"role": "user", "content": "How is it?", "tool_calls": ""}
    ]
    known = [{"role": "user", "content": "How is it?", "tool_calls": ()}]
    assert json.dumps(Request((USER,)).content()["messages"]) == json.dumps(known)
    assert Request(with_tools((USER,), [WEATHER])).key("m") != Request((USER,)).key("m")
