"""Chats and comparisons survive storage; the byte tokenizer is exact."""

from pathlib import Path

import pytest

from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Chat, Comparison, Message, ToolCall, row_to_item
from bezoar.errors import DataError
from bezoar.parquet import read_parquet, write_parquet

CALL = ToolCall("add", {"a": 1, "deep": {"b": [None, "é\u2028"]}})
CHATS = [
    Chat(
        "d:1",
        (Message("user", "Hi"), Message("assistant", "Yo\u2028!")),
        {"category": "x", "n": 1.5, "null": None},
    ),
    Chat(
        "d:2",
        (
            Message("user", "2+2"),
            Message("assistant", "", (CALL, CALL)),
            Message("tool", "4"),
            Message("assistant", "4"),
        ),
    ),
]
PAIRS = [
    Comparison("p:1", (Message("system", ""), Message("user", "Hi")), "good", "bad", {"line": 3}),
    Comparison(
        "p:2", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")), "x", "", {}
    ),
]


@pytest.mark.parametrize("items", [CHATS, PAIRS], ids=["chats", "comparisons"])
def test_parquet_keeps_every_field(items: list[Chat] | list[Comparison], tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", [item.to_row() for item in items])
    assert [row_to_item(row) for row in read_parquet(tmp_path / "rows.parquet")] == items


ROW = {"id": "x", "messages": [{"role": "user", "content": "a", "tool_calls": ""}], "meta": "{}"}


@pytest.mark.parametrize(
    "change",
    [
        {"messages": None},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 5, "tool_calls": ""}]},
        {"messages": [{"role": "king", "content": "a", "tool_calls": ""}]},
        {"messages": [{"role": "user", "content": "a", "tool_calls": "[5]"}]},
        {"meta": "[1]"},
        {"meta": "hi"},
        {"meta": None},
        {"chosen": []},
        {"answers": 5},
        {"answers": ["a"], "prompt": [], "numbers": "5"},
    ],
)
def test_a_row_of_someone_else_is_named(change: dict[str, object]) -> None:
    assert row_to_item(ROW).id == "x"
    with pytest.raises(DataError, match="row 'x': it was not written by a stage"):
        row_to_item({**ROW, **change})
    with pytest.raises(DataError, match="row None"):
        row_to_item({})


def test_prompt_and_answer_of_a_chat() -> None:
    chat = CHATS[1]
    assert chat.prompt == chat.messages[:3]
    assert chat.answer == "4"
    asked = Chat("x", chat.messages[:1])
    assert (asked.prompt, asked.answer) == (asked.messages, "")


def test_a_comparison_as_a_chat_and_swapped() -> None:
    pair = PAIRS[0]
    assert (pair.as_chat().prompt, pair.as_chat().answer) == (pair.prompt, "good")
    assert (pair.swap().chosen, pair.swap().rejected) == ("bad", "good")
    assert pair.swap().swap() == pair


def test_the_byte_tokenizer_is_exact() -> None:
    tokenizer = ByteTokenizer()
    text = "<|im_start|>é<pad></s>\u2028<|im_end|><|im_end|>😀"
    assert tokenizer.decode(tokenizer.encode(text, markers=True), markers=True) == text
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (
        max(tokenizer.encode(text))
        < 256
        < max(tokenizer.encode(text, markers=True))
        < tokenizer.size
    )
    assert tokenizer.decode(tokenizer.encode(text, markers=True)) == "é\u2028😀"
