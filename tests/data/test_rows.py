"""Files that are not what they should be get one sentence with their place; files that are give
every row."""

import gzip
import json
from pathlib import Path

import pytest

from bezoar.data.hub import read_hub
from bezoar.data.rows import RowOrigin, number, read_file, text
from bezoar.errors import DataError
from bezoar.parquet import write_parquet

AT = RowOrigin("f.jsonl:3", "f.jsonl", 3)


def read(path: Path, content: bytes | str) -> list[tuple[str, dict[str, object]]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(at.id, row) for at, row in read_file(path, path.name)]


def test_every_format_gives_rows_and_their_places(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"a": "one\u2028two\x85three"}, {"a": "é"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    named = [("x:1", rows[0]), ("x:2", rows[1])]

    def renamed(found: list[tuple[str, dict[str, object]]]) -> list[tuple[str, dict[str, object]]]:
        return [("x:" + name.rsplit(":", 1)[1], row) for name, row in found]

    assert renamed(read(tmp_path / "a.jsonl", lines)) == named
    assert renamed(read(tmp_path / "a.jsonl.gz", gzip.compress(lines.encode()))) == named
    assert renamed(read(tmp_path / "lines.json", lines)) == named
    assert renamed(read(tmp_path / "array.json", json.dumps(rows, indent=2))) == named
    assert renamed(read(tmp_path / "array_in_a_line.json", json.dumps(rows))) == named
    assert renamed(read(tmp_path / "object.json", json.dumps(rows[0], indent=2))) == named[:1]
    write_parquet(tmp_path / "a.parquet", rows)
    assert [(at.id, row) for at, row in read_file(tmp_path / "a.parquet", "x")] == named
    assert read(tmp_path / "a.tsv", "a\\nb\tc\n\nd\te\r\n") == [
        ("a.tsv:1", {"0": "a\nb", "1": "c"}),
        ("a.tsv:3", {"0": "d", "1": "e"}),
    ]


GOOD = b'{"a": 1}\n'
PACKED = gzip.compress(GOOD * 5000)
BROKEN = {
    "broken line": ("a.jsonl", GOOD + b'{"a": "x\n' + GOOD, ":2: not valid JSON"),
    "cut last line": ("a.jsonl", GOOD + b'{"a"', ":2: not valid JSON"),
    "two objects in a line": ("a.jsonl", b'{"a": 1}{"a": 2}\n', ":1: not valid JSON"),
    "byte order mark": (
        "a.jsonl",
        b"\xef\xbb\xbf" + GOOD,
        ":1: the file starts with a UTF-8 byte order mark",
    ),
    "UTF-16": ("a.jsonl", '{"a": 1}'.encode("utf-16"), ":1: the file starts with UTF-16"),
    "UTF-16 without a mark": ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), ":1: not valid JSON"),
    "Latin-1": ("a.jsonl", GOOD * 2 + '{"a": "é"}\n'.encode("latin-1"), ":3: not UTF-8"),
    "array row": ("a.jsonl", GOOD + b"[1, 2]\n", ":2: the row is a JSON list"),
    "string row": ("a.jsonl", b'"a"\n', ":1: the row is a JSON str"),
    "null row": ("a.jsonl", b"null\n", ":1: the row is a JSON NoneType"),
    "Git LFS pointer": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
        ":1: this is a Git LFS pointer",
    ),
    "LFS pointer to Parquet": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "Parquet",
    ),
    "NaN": ("a.jsonl", GOOD + b'{"a": NaN}\n', ":2: NaN is not valid JSON"),
    "Infinity": ("a.jsonl", b'{"a": [-Infinity]}\n', ":1: -Infinity is not valid JSON"),
    "key twice": ("a.jsonl", GOOD + b'{"a": 1, "b": 2, "a": 3}\n', ":2: the key 'a' stands twice"),
    "deep": ("a.jsonl", b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", ":1: not valid JSON"),
    "long number": ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", ":1: not valid JSON"),
    "empty file": ("a.jsonl", b"", "the file holds no rows"),
    "blank file": ("a.jsonl", b"\n \n", "the file holds no rows"),
    "empty json": ("a.json", b"", "the file holds no rows"),
    "empty array": ("a.json", b"[]", "the file holds no rows"),
    "empty Parquet": ("a.parquet", b"", "not a Parquet file"),
    "broken array": ("a.json", b'[\n {"a": 1},\n {"a": }\n]', ":3: not valid JSON"),
    "row of an array": ("a.json", b'[\n {"a": 1},\n 5\n]', ": row 2: the row is a JSON int"),
    "number as a file": ("a.json", b"5\n", ": row 1: the row is a JSON int"),
    "no gzip": ("a.jsonl.gz", GOOD, "Not a gzipped file"),
    "cut gzip": ("a.jsonl.gz", PACKED[:-20], "cannot be read to its end"),
    "bad gzip": ("a.jsonl.gz", PACKED[:10] + b"\xff" * 30, "cannot be read"),
    "columns of a tsv": (
        "a.tsv",
        b"a\tb\n\nc\n",
        ":3: the line has 1 tab-separated columns and the first has 2",
    ),
    "cut Parquet": ("a.parquet", b"PAR1" + b"\0" * 100, "cannot be read after row 0"),
    "other format": ("a.xlsx", GOOD, "rows are read from .jsonl"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_with_its_place(case: str, tmp_path: Path) -> None:
    name, content, what = BROKEN[case]
    path = tmp_path / name
    with pytest.raises(DataError) as error:
        read(path, content)
    assert what in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_rows_before_a_broken_line_are_read_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"oops\n")
    rows = read_file(path, "a")
    assert next(rows)[1] == {"a": 1}
    with pytest.raises(DataError, match=":2:"):
        next(rows)


def test_columns_are_checked() -> None:
    assert text({"a": " x\n"}, "a", AT) == "x"
    assert text({"a": None}, "a", AT) == ""
    assert text({}, "a", AT, needed=False) == ""
    with pytest.raises(
        DataError, match=r"f.jsonl:3: the row has no column 'prompt'; it has question, answer\."
    ):
        text({"question": "q", "answer": "a"}, "prompt", AT)
    with pytest.raises(DataError, match=r"f.jsonl:3: the column 'a' is a list, not text"):
        text({"a": ["x"]}, "a", AT)
    assert number({"a": 3}, "a", AT) == 3
    for wrong in (True, "3", None, float("nan")):
        with pytest.raises(DataError, match="not a number"):
            number({"a": wrong}, "a", AT)


def test_a_hub_dataset_is_streamed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text('{"a": "one"}\n{"a": "two"}\n')
    found = list(read_hub(str(tmp_path), "owner/name/train", "train", {}))
    assert [(at.id, row) for at, row in found] == [
        ("owner/name/train:1", {"a": "one"}),
        ("owner/name/train:2", {"a": "two"}),
    ]
    with pytest.raises(DataError, match="owner/name/nosuch: the Hub dataset cannot be opened"):
        list(read_hub(str(tmp_path), "owner/name/nosuch", "nosuch", {}))
