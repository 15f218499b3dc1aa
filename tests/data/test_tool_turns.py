"""Chats with tools in the forms of OpenAI, ShareGPT and Hermes become one; malformed ones are
dropped by their fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.messages import to_openai
from bezoar.chat.types import Comparison, Message, Tool, ToolCall
from bezoar.data import SOURCES
from bezoar.data.columns import Columns
from bezoar.data.sharegpt import ShareGPT
from bezoar.data.subset import content_key
from bezoar.parquet import write_parquet
from tests.helpers.tool_chats import tool_chats

SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}}
WEATHER = Tool("weather", "The weather of a town.", SCHEMA)
ULM, BONN = ToolCall("weather", {"town": "Ulm"}), ToolCall("weather", {"town": "Bonn"})
WHOLE = (
    Message("system", "Be brief.", tools=(WEATHER,)),
    Message("user", "Rain?"),
    Message("assistant", "I look.", (ULM, BONN)),
    Message("tool", "rain"),
    Message("tool", "sun"),
    Message("assistant", "Only in Ulm."),
)


def loaded(kind: str, row: dict[str, Any], folder: Path) -> Any:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    filtered = SOURCES[kind](path="rows.jsonl").below(folder).load()  # type: ignore[call-arg]
    return filtered.rows[0] if filtered.rows else filtered.dropped[0].reason


def openai(*, text: bool = False, swap: bool = False) -> dict[str, Any]:
    function = [vars(call) for call in (ULM, BONN)]
    if text:
        function = [{**call, "arguments": json.dumps(call["arguments"])} for call in function]
    calls = [{"id": f"c{i}", "type": "function", "function": f} for i, f in enumerate(function)]
    results = [
        {"role": "tool", "tool_call_id": f"c{i}", "content": w}
        for i, w in enumerate(("rain", "sun"))
    ]
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "I look.", "tool_calls": calls},
            *(results[::-1] if swap else results),
            {"role": "assistant", "content": "Only in Ulm."},
        ],
        "tools": json.dumps([WEATHER.to_json()]) if text else [WEATHER.to_json()["function"]],
    }


def turns(*pairs: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": what} for who, what in pairs], **more}


def hermes(*, python: bool = False, column: bool = False) -> dict[str, Any]:
    write = repr if python else json.dumps
    calls = [f"<tool_call>\n{write(vars(call))}\n</tool_call>" for call in (ULM, BONN)]
    results = [f"<tool_response>\n{word}\n</tool_response>" for word in ("rain", "sun")]
    tools = f"<tools> {write([WEATHER.to_json()])} </tools>"
    how = (
        "You are a function calling AI model. You are provided with function signatures within"
        f" <tools> </tools> XML tags. Here are the available tools:\n{tools} Use the following"
        " pydantic model json schema for each tool call you will make: {} For each function call"
        " return a json object within <tool_call></tool_call> XML tags."
    )
    return turns(
        ("system", f"Be brief.\n\n{how}"),
        ("human", "Rain?"),
        ("gpt", "\n".join(["I look.", *calls])),
        ("tool", "\n".join(results)),
        ("gpt", "Only in Ulm."),
        **({"tools": json.dumps([WEATHER.to_json()])} if column else {}),
    )


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("jsonl", openai()),
        ("jsonl", openai(text=True)),
        ("jsonl", openai(swap=True)),
        ("sharegpt", hermes()),
        ("sharegpt", hermes(python=True)),
        ("sharegpt", hermes(column=True)),
    ],
)
def test_all_forms_become_the_same_chat(kind: str, row: dict[str, Any], tmp_path: Path) -> None:
    assert loaded(kind, row, tmp_path).messages == WHOLE


def test_sharegpt_s_own_turns_too(tmp_path: Path) -> None:
    pairs = [("human", "Rain?"), *(("function_call", json.dumps(vars(c))) for c in (ULM, BONN))]
    pairs += [("observation", "rain"), ("observation", "sun"), ("gpt", "Only in Ulm.")]
    row = turns(*pairs, system="Be brief.", tools=json.dumps([WEATHER.to_json()["function"]]))
    silent = Message("assistant", "", (ULM, BONN))
    assert loaded("sharegpt", row, tmp_path).messages == (*WHOLE[:2], silent, *WHOLE[3:])


def test_a_chat_may_end_with_the_call(tmp_path: Path) -> None:
    row = openai()
    row["messages"] = row["messages"][:3]
    chat = loaded("jsonl", row, tmp_path)
    assert chat.prompt == WHOLE[:2]
    assert chat.answer.startswith("I look.\n<tool_call>\n{")


def call(body: str) -> dict[str, Any]:
    tools = json.dumps([WEATHER.to_json()])
    return turns(("human", "Rain?"), ("gpt", f"<tool_call>{body}</tool_call>"), tools=tools)


def with_message(index: int, **change: Any) -> dict[str, Any]:
    row = openai()
    row["messages"][index] |= change
    return row


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("sharegpt", call('{"name": "weather", "arguments": {}'), "bad JSON in a call"),
        ("sharegpt", call("weather(Ulm)"), "bad JSON in a call"),
        ("sharegpt", call("{'name': 'weather', 'arguments': {1, 2}}"), "bad JSON in a call"),
        ("sharegpt", call('{"name": "weather"}'), "bad call"),
        ("sharegpt", call('{"arguments": {}}'), "bad call"),
        (
            "sharegpt",
            call('{"name": "snow", "arguments": {}}'),
            "call of a tool that is not declared",
        ),
        (
            "sharegpt",
            call('{"name": "weather", "arguments": {}}</tool_call> Then'),
            "words behind a call",
        ),
        ("jsonl", with_message(4, tool_call_id="c9"), "result without a call"),
        ("jsonl", with_message(2, tool_calls=[]), "result without a call"),
        (
            "jsonl",
            with_message(2, tool_calls=openai()["messages"][2]["tool_calls"][:1]),
            "result without a call",
        ),
        ("jsonl", {**openai(), "tools": []}, "call of a tool that is not declared"),
        ("jsonl", {**openai(), "tools": [{"description": "x"}]}, "bad tool"),
        ("jsonl", {**openai(), "tools": "[{"}, "bad JSON in the tools"),
        (
            "jsonl",
            with_message(2, tool_calls=[{"function": {"name": "weather", "arguments": "{"}}]),
            "bad JSON in a call",
        ),
    ],
)
def test_malformed_ones_are_dropped_by_their_fault(
    kind: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert loaded(kind, row, tmp_path) == reason


def test_words_about_tags_in_a_chat_without_tools_stay_words(tmp_path: Path) -> None:
    row = turns(("human", "What is a tag?"), ("gpt", "<tool_call> is one, and <tools> too."))
    assert loaded("sharegpt", row, tmp_path).answer == "<tool_call> is one, and <tools> too."


def test_rows_of_a_stage_and_openai_s_form_of_any_chat_are_read_back(tmp_path: Path) -> None:
    rows = []
    for messages in tool_chats(20):
        tools = [tool.to_json() for tool in messages[0].tools]
        rows.append({"messages": to_openai(messages), "tools": tools})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = Columns("rows.jsonl").below(tmp_path).load().rows
    assert [chat.messages for chat in chats] == [
        tuple(Message(m.role, m.content.strip(), m.tool_calls, m.tools) for m in messages)
        for messages in tool_chats(20)
    ]
    write_parquet(tmp_path / "rows.parquet", [chat.to_row() for chat in chats])
    again = Columns("rows.parquet", kind="parquet").below(tmp_path).load().rows
    assert [chat.messages for chat in again] == [chat.messages for chat in chats]


def test_a_pair_carries_tools_and_calls(tmp_path: Path) -> None:
    sides = [
        [*openai()["messages"][1:3]],
        [*openai()["messages"][1:2], {"role": "assistant", "content": "No."}],
    ]
    row = {"chosen": sides[0], "rejected": sides[1], "tools": openai()["tools"]}
    pair = loaded("jsonl", row, tmp_path)
    assert isinstance(pair, Comparison)
    assert pair.prompt[0].tools == (WEATHER,)
    assert pair.chosen.count("<tool_call>") == 2
    other = Comparison("x", pair.prompt[1:], pair.chosen, pair.rejected)
    assert content_key(other, 1) != content_key(pair, 1)


def test_what_is_no_tool_call_of_python_is_not_run(tmp_path: Path) -> None:
    row = call("__import__('os').abort()")
    assert loaded("sharegpt", row, tmp_path) == "bad JSON in a call"
    (tmp_path / "rows.jsonl").write_text(json.dumps(call("[" * 5000)) + "\n")
    filtered = ShareGPT("rows.jsonl").below(tmp_path).load()
    assert [dropped.reason for dropped in filtered.dropped] == ["bad JSON in a call"]


def test_tools_on_lines_may_say_a_line_separator(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, but stands unescaped in JSON text
    tools = [Tool("weather", "The weather\u2028of a town.", SCHEMA), Tool("tide", "The tide.")]
    lines = "\n".join(json.dumps(tool.to_json(), ensure_ascii=False) for tool in tools)
    row = turns(("system", f"<tools>\n{lines}\n</tools>"), ("human", "Rain?"), ("gpt", "No."))
    assert loaded("sharegpt", row, tmp_path).messages[0].tools == tuple(tools)
