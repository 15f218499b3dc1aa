"""Alpaca's format and CSV files: what a row becomes, and where a fault is."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.data import SOURCES, Alpaca
from bezoar.data.columns import CSV
from bezoar.data.source import Source
from bezoar.errors import DataError

ROWS = [
    {"instruction": " Translate. ", "input": "house\n", "output": "maison"},
    {"instruction": "Say {input}.", "input": " ", "output": "hi"},
    {"instruction": "Rest.", "input": "<noinput>", "output": "Zz.", "system": "You are tired."},
    {"instruction": "Echo {input} and {instruction}.", "input": "{instruction}", "output": "x"},
    {"instruction": "Lack.", "output": "ok"},
    {"instruction": "", "input": "text", "output": "y"},
    {"instruction": "Go.", "input": "", "output": ""},
]
PROMPTS = [
    "Translate.\n\n### Input:\nhouse",
    "Say {input}.",
    "Rest.",
    "Echo {input} and {instruction}.\n\n### Input:\n{instruction}",
    "Lack.",
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_an_input_follows_its_instruction(name: str, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / name).write_text(json.dumps(ROWS) if name == "a.json" else lines)
    sifted = Alpaca(name).below(tmp_path).load()
    assert [row.messages[-2].content for row in sifted.rows] == PROMPTS
    assert [m.content for m in sifted.rows[2].messages] == ["You are tired.", "Rest.", "Zz."]
    assert [item.reason for item in sifted.dropped] == ["empty prompt", "empty answer"]


def test_the_template_of_an_input_and_the_columns_can_be_named(tmp_path: Path) -> None:
    row = {"question": "Who?", "passage": "Ann did.", "answer": "Ann"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    names = {"instruction": "question", "input": "passage", "output": "answer"}
    source = Alpaca("a.jsonl", **names, with_input="{input}\n\n{instruction}")
    assert source.below(tmp_path).load().rows[0].prompt[0].content == "Ann did.\n\nWho?"
    with pytest.raises(ValueError, match=r"with_input needs \{instruction\} and \{input\}"):
        Alpaca("a.jsonl", with_input="{instruction}")


def rows(folder: Path, content: str | bytes, name: str = "a.csv", **keys: Any) -> list[list[str]]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = CSV(name, **keys).below(folder).load().rows
    return [[*(m.content for m in row.prompt), *_answers(row), row.id] for row in found]


def _answers(row: Any) -> list[str]:
    return [row.chosen, row.rejected] if hasattr(row, "chosen") else [row.answer]


def test_cells_hold_lines_quotes_and_delimiters(tmp_path: Path) -> None:
    text = 'prompt,response\r\n"Say ""hi"",\r\n\r\ntwice.",Hi hi\r\n\r\nB?, ok \r\n'
    assert rows(tmp_path, text) == [
        ['Say "hi",\n\ntwice.', "Hi hi", "a.csv:2"],
        ["B?", "ok", "a.csv:6"],
    ]


@pytest.mark.parametrize(
    ("content", "name", "keys"),
    [
        ("prompt,response\nQ,Ä", "a.csv", {}),
        ("prompt\tresponse\nQ\tÄ\n", "a.tsv", {}),
        ("prompt;response\nQ;Ä\n", "a.csv", {"delimiter": ";"}),
        ("prompt|response\nQ|Ä\n", "a.txt", {"delimiter": "|"}),
        ("prompt,response\nQ,Ä\n".encode("utf-8-sig"), "a.csv", {}),
        ("prompt,response\nQ,Ä\n".encode("utf-16"), "a.csv", {"encoding": "utf-16"}),
        ("prompt,response\nQ,Ä\n".encode("cp1252"), "a.csv", {"encoding": "cp1252"}),
        (gzip.compress("prompt,response\nQ,Ä\n".encode(), mtime=0), "a.csv.gz", {}),
        ("q,a\nQ,Ä\n", "a.csv", {"prompt": "q", "response": "a"}),
        ("response, prompt\nÄ,Q\n", "a.csv", {}),
        ('messages\n"[{""role"": ""user"", ""content"": ""Q""}, {""role"": ""assistant"",'
         ' ""content"": ""Ä""}]"\n', "a.csv", {}),
    ],
)  # fmt: skip
def test_delimiters_encodings_and_columns(
    content: str | bytes, name: str, keys: dict[str, str], tmp_path: Path
) -> None:
    assert rows(tmp_path, content, name, **keys) == [["Q", "Ä", f"{name}:2"]]


def test_a_csv_file_of_pairs_and_one_of_alpaca(tmp_path: Path) -> None:
    assert rows(tmp_path, "prompt,chosen,rejected\nQ,A,B\n") == [["Q", "A", "B", "a.csv:2"]]
    (tmp_path / "b.csv").write_text("instruction,input,output\nAdd.,1 2,3\n")
    (row,) = Alpaca("b.csv").below(tmp_path).load().rows
    assert row.prompt[0].content == "Add.\n\n### Input:\n1 2"


@pytest.mark.parametrize(
    ("content", "keys", "fault"),
    [
        ("prompt,response\n\n\"a\nb\",c\nd,e,f\n", {}, ":5: the row has 3 cells and the header 2"),
        ("prompt,response\nq,a\n\"b,c\n", {}, ":3: not valid CSV (unexpected end of data); close"),
        ('prompt,response\nq,"a"b\n', {}, ":2: not valid CSV"),
        ("prompt;response\nq;a\n", {}, ':1: with \',\' as the delimiter the header is one column,'
         " 'prompt;response'; use kind csv with `delimiter: \";\"`."),
        ("prompt,prompt\na,b\n", {}, ":1: two columns are named 'prompt'"),
        ("question,answer\na,b\n", {}, ":2: the row has none of the columns 'messages', 'prompt'"),
        ("prompt,response,x\na,b,c d\n", {}, ":2: the column 'x' holds text that is not read"),
        ("prompt,response\na,b\n\xff,c\n".encode("latin-1"), {}, ":3: not utf-8 text"),
        ("prompt,response\n", {}, "the file holds no rows"),
        ("", {}, "the file holds no rows"),
        ("prompt,response\nq,a\n", {"encoding": "utf-16"}, ":1: not utf-16 text"),
    ],
)  # fmt: skip
def test_a_fault_has_its_line(
    content: str | bytes, keys: dict[str, str], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        rows(tmp_path, content, **keys)
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"path": "a.csv", "delimiter": "ab"}, "delimiter is one character"),
        ({"path": "a.csv", "delimiter": '"'}, "delimiter is one character"),
        ({"path": "a.csv", "encoding": "utf-9"}, "no encoding is named 'utf-9'"),
        ({"path": "a.csv", "encoding": "base64"}, "no encoding is named 'base64'"),
        ({"path": "a.jsonl"}, "kind csv does not fit the path"),
        ({"path": "owner/name"}, "kind csv does not fit the path"),
    ],
)
def test_wrong_settings(keys: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        CSV(**keys)


def test_json_lines_are_not_read_as_csv(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use kind csv"):
        SOURCES["jsonl"]("a.csv")
    source: Source[Any] = CSV("folder").below(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.jsonl").write_text('{"prompt": "Q", "response": "A"}\n')
    with pytest.raises(DataError, match="this is no CSV file"):
        source.load()
