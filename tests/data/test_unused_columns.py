"""Text that a source would lose is an error that names the column, the place and the way out."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Tool
from bezoar.data import SOURCES, Columns
from bezoar.data.source import Source
from bezoar.errors import DataError

SAID = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def fault(source: Source[Any], folder: Path) -> str:
    with pytest.raises(DataError) as error:
        source.below(folder).load()
    return str(error.value)


ALPACA = {"instruction": "Translate.", "input": "house", "output": "maison"}


def test_the_input_of_alpaca_is_not_lost(tmp_path: Path) -> None:
    written(tmp_path, {**ALPACA, "input": ""}, ALPACA)
    plain = Columns("rows.jsonl", prompt="instruction", response="output")
    assert fault(plain, tmp_path) == (
        f"{tmp_path}/rows.jsonl:2: the column 'input' holds text that is not read; use kind alpaca,"
        " or leave it out by `ignore: [input]`."
    )
    rows = (
        Columns("rows.jsonl", prompt="instruction", response="output", ignore=("input",))
        .below(tmp_path)
        .load()
        .rows
    )
    assert rows[0].prompt[0].content == "Translate."
    # nor by a kind of another format that has the other columns
    written(tmp_path, {"instruction": "Go.", "input": "now", "response": "ok"})
    assert "'input' holds text" in fault(SOURCES["dolly"]("rows.jsonl"), tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Q", "response": "A", "context": "C"}, "the column 'context' holds text"),
        ({"prompt": "Q", "response": "A", "n": [{"x": ["t"]}]}, "the column 'n' holds text"),
        (
            {"prompt": "Q", "response": "A", "b": "x y", "a": "z w"},
            "the columns 'b', 'a' hold text that is not read; name them by one of the keys"
            " messages, prompt, response, chosen, rejected, system, or leave them out by"
            " `ignore: [b, a]`.",
        ),
        ({"messages": SAID, "prompt": "Other?"}, "the column 'prompt' holds text"),
        ({"messages": SAID, "conversations": [{"from": "human", "value": "x y"}]}, "kind sharegpt"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "response": "C"}, "column 'response'"),
        ({"prompt": "Q", "response": "A", "source": "a web page"}, "the column 'source' holds"),
    ],
)
def test_text_that_nothing_reads_is_an_error(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in fault(Columns("rows.jsonl"), written(tmp_path, row))
    everything = Columns("rows.jsonl", ignore=("*",)).below(tmp_path)
    assert len(everything.load().rows) == 1


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        # numbers, flags, empty cells and ids say nothing to train on
        ("jsonl", {"prompt": "Q", "response": "A", "n": 1, "x": "", "y": None, "z": []}),
        ("jsonl", {"prompt": "Q", "response": "A", "id": "a b", "prompt_id": "7f"}),
        # UltraChat: the prompt once more; spelt in another way in some rows
        ("jsonl", {"messages": SAID, "prompt": "Why?", "prompt_id": "7f"}),
        ("jsonl", {"messages": SAID, "prompt": "why ?"}),
        # UltraFeedback's pairs hold the chosen conversation twice
        (
            "jsonl",
            {"prompt": "Why?", "chosen": SAID, "rejected": [SAID[0], {**SAID[1], "content": "No"}],
             "messages": SAID},
        ),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"},
                                        {"from": "gpt", "value": "b"}],
                      "source": "x", "model": "m", "category": "c"}),
        ("alpaca", {**ALPACA, "text": "Below is an instruction that describes a task"}),
        (
            "helpsteer2_preference",
            {"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": 1,
             "split": "train", "preference_statement": "the second is better",
             "three_most_similar_preferences": [{"statement": "so"}]},
        ),
    ],
)  # fmt: skip
def test_published_layouts_still_load(kind: str, row: dict[str, Any], tmp_path: Path) -> None:
    (item,) = SOURCES[kind]("rows.jsonl").below(written(tmp_path, row)).load().rows
    assert item


def test_a_column_to_ignore_has_to_be_there(tmp_path: Path) -> None:
    written(
        tmp_path, {"prompt": "Q", "response": "A", "note": "x y"}, {"prompt": "R", "response": "B"}
    )
    for name in ("notes", "prompt"):
        source = Columns("rows.jsonl", ignore=("note", name))
        assert f"no row has a column '{name}' that is not read; remove it" in fault(
            source, tmp_path
        )
    # what was not read to its end may have it further down
    assert Columns("rows.jsonl", ignore=("note", "notes"), limit=1).below(tmp_path).load().rows


def test_system_and_tools_of_a_table_are_read(tmp_path: Path) -> None:
    tools = [{"name": "f"}]
    written(tmp_path, {"messages": SAID, "system": "Be brief.", "tools": tools})
    (chat,) = Columns("rows.jsonl").below(tmp_path).load().rows
    assert isinstance(chat, Chat)
    assert [(m.role, m.content) for m in chat.messages[:2]] == [
        ("system", "Be brief."),
        ("user", "Why?"),
    ]
    assert chat.messages[0].tools == (Tool("f"),)
    written(tmp_path, {"prompt": "Q", "chosen": "A", "rejected": "B", "rules": "Be brief."})
    (pair,) = Columns("rows.jsonl", system="rules").below(tmp_path).load().rows
    assert [m.content for m in pair.prompt] == ["Be brief.", "Q"]
