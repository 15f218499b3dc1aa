"""Hashes, atomic writes and strict readers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bezoar.errors import DataError
from bezoar.io import Row, atomic_dir, atomic_file, atomic_write, content_hash, read_jsonl
from bezoar.parquet import num_rows, read_parquet, write_parquet


def test_equal_content_has_an_equal_hash() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash("a", "b") != content_hash("ab")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, "old")
    with pytest.raises(TypeError):
        atomic_write(path, 5)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "d") as work:
        (work / "f").write_text("old")

    def fail() -> None:
        with atomic_dir(tmp_path / "d") as work:
            (work / "f").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert (tmp_path / "d" / "f").read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_can_be_read_by_whom_the_umask_lets_in(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "x", "words")
        with atomic_file(tmp_path / "y") as partial:
            _write_privately(partial)
        with atomic_dir(tmp_path / "d") as work:
            (work / "inner").mkdir()
            _write_privately(work / "inner" / "z")
    finally:
        os.umask(before)
    for name in ("x", "y", "d/inner/z"):
        assert (tmp_path / name).stat().st_mode & 0o444 == 0o444 & ~umask, name


def _write_privately(path: Path) -> None:
    """As safetensors does: a private file that takes the place of `path`."""
    own = path.with_name("own")
    own.touch(0o600)
    own.replace(path)


def test_a_line_separator_inside_a_string_does_not_cut_a_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two"}\n\n{"a": "three"}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [(1, {"a": "one\u2028two"}), (3, {"a": "three"})]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"a": 1}\n{"a": \n', ":2: not valid JSON"),
        (b"\xef\xbb\xbf{}\n", "byte order mark"),
        ('{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        (b"[1]\n", ":1: the row is a JSON list"),
        (b'{"a": 1}\n{"a": "\xff"}\n', ":2: not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_place(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_jsonl(path))
    assert what in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_parquet_keeps_rows(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "messages": [{"role": "user", "content": "é\u2028"}]},
        {"id": "2", "messages": []},
    ]
    write_parquet(tmp_path / "r.parquet", rows)
    assert list(read_parquet(tmp_path / "r.parquet")) == rows
    assert num_rows(tmp_path / "r.parquet") == len(rows)


def test_columns_and_texts_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written a row group at a time, as if all were known from the start."""
    turns = [[{"role": "user"}], [{"role": "user", "tools": "[]"}], []]
    rows = [{"id": str(i), "meta": None, "turns": turns[i > 3]} for i in range(6)]
    rows += [{"id": "6", "meta": "{}", "turns": turns[2], "more": 1}, {"id": "7"}]
    write_parquet(tmp_path / "together.parquet", rows)
    monkeypatch.setattr("bezoar.parquet._GROUP_ROWS", 2)
    write_parquet(tmp_path / "parts.parquet", iter(rows))
    together, parts = (list(read_parquet(tmp_path / f"{n}.parquet")) for n in ("together", "parts"))
    assert parts == together
    assert parts[0]["turns"] == [{"role": "user", "tools": None}]
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_that_end_with_an_error_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bezoar.parquet._GROUP_ROWS", 1)

    def rows() -> Iterator[Row]:
        yield {"id": "0"}
        raise DataError("no")

    with pytest.raises(DataError):
        write_parquet(tmp_path / "rows.parquet", rows())
    assert not list(tmp_path.iterdir())
