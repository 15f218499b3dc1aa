"""Rows and files that someone else wrote, to break us or by accident: a drop that is counted or one
sentence, in bounded memory."""

import gzip
import json
import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bezoar.data import SOURCES, Columns, Dolly, Flan, HelpSteer2, ShareGPT
from bezoar.data.rows import read_file
from bezoar.errors import DataError
from bezoar.reading import Limits

GOOD: dict[str, Any] = {"prompt": "Hi", "response": "Yo"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"


def refusal(source: Any, folder: Path) -> str:
    """The one sentence that a source ends in."""
    with pytest.raises(DataError) as error:
        source.below(folder).load()
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


def ended(work: Callable[[], object]) -> DataError | None:
    """The sentence that work ended in, if it did."""
    try:
        work()
    except DataError as error:
        return error
    return None


def of(folder: Path, row: Any, **keys: Any) -> Columns:
    """A source of a good row and this one in the second line."""
    (folder / "rows.jsonl").write_text(
        json.dumps(GOOD) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n"
    )
    return Columns("rows.jsonl", **keys)


HALF = "\ud83d"
WRONG: dict[str, tuple[Any, str]] = {
    "half a pair in meta": ({**GOOD, "meta": {"a": [HALF]}}, "half of a surrogate pair"),
    "half a pair in a key of meta": ({**GOOD, "meta": {HALF: 1}}, "half of a surrogate pair"),
    "half a pair in meta's text": (
        {**GOOD, "meta": json.dumps({"a": HALF})},
        "the text in the column 'meta': it holds half of a surrogate pair",
    ),
    "half a pair in the answer": ({**GOOD, "response": HALF}, "half of a surrogate pair"),
    "half a pair in another column": ({**GOOD, "other": HALF}, "half of a surrogate pair"),
    "meta text": ({**GOOD, "meta": "hi"}, "the text in the column 'meta': not valid JSON"),
    "meta JSON text of a list": (
        {**GOOD, "meta": "[1]"},
        "the column 'meta' is a list, not an object",
    ),
    "meta number": ({**GOOD, "meta": 5}, "the column 'meta' is a int, not an object"),
    "meta zero": ({**GOOD, "meta": 0}, "the column 'meta' is a int, not an object"),
    "meta true": ({**GOOD, "meta": True}, "the column 'meta' is a bool, not an object"),
    "meta list": ({**GOOD, "meta": [["a", 1]]}, "the column 'meta' is a list, not an object"),
    "NaN in meta's text": (
        {**GOOD, "meta": '{"a": NaN}'},
        "the text in the column 'meta': NaN is not valid JSON",
    ),
    "messages text": (
        {"messages": "hi"},
        "the conversation is not a list of objects with 'role' and 'content'",
    ),
    "messages number": ({"messages": 5}, "the conversation is not a list"),
    "messages null": ({"messages": None}, "the conversation is not a list"),
    "messages of texts": ({"messages": ["hi"]}, "the conversation is not a list of objects"),
    "messages of null": ({"messages": [None]}, "the conversation is not a list of objects"),
    "role number": ({"messages": [{"role": 1, "content": "x"}]}, "the column 'role' is a int"),
    "content list": (
        {"messages": [{"role": "user", "content": ["x"]}]},
        "the column 'content' is a list",
    ),
    "call number": (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": 5}]},
        "a function call is not an object",
    ),
    "prompt number": ({"prompt": 5, "response": "x"}, "the column 'prompt' is a int"),
    "chosen object": (
        {"prompt": "x", "chosen": {}, "rejected": "y"},
        "the column 'chosen' is a dict",
    ),
    "nothing": ({}, "it has none."),
    "a thousand columns": ({f"c{n}": n for n in range(1000)}, "the row has none of the columns"),
    "newline in a column": ({"a\nb\x1b": 1}, "the row has none of the columns"),
    "key twice, at the end of many": (
        '{"k": 1, ' + ", ".join(f'"a{n}": 1' for n in range(50_000)) + ', "k": 2}',
        "the key 'k' stands twice",
    ),
    "long key twice": (
        f'{{"{"k" * 10_000}": 1, "{"k" * 10_000}": 1}}',
        "stands twice in one object",
    ),
    "1e999": ('{"prompt": "x", "response": "y", "n": 1e999}', "the number 1e999 is too large"),
    "5,000 digits": ('{"n": ' + "9" * 5_000 + "}", "(a number of 5,000 digits)"),
    "-Infinity": ('{"n": -Infinity}', "-Infinity is not valid JSON"),
    "101 levels": (
        {**GOOD, "meta": {"a": json.loads("[" * 200 + "]" * 200)}},
        "more than 100 levels deep",
    ),
    "100,000 levels": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "100,000 objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_does_not_fit_is_one_sentence_with_its_line(case: str, tmp_path: Path) -> None:
    row, what = WRONG[case]
    message = refusal(of(tmp_path, row), tmp_path)
    assert what in message
    assert f"{tmp_path}/rows.jsonl:2: " in message


def test_what_is_allowed_stays_allowed(tmp_path: Path) -> None:
    for meta in ({"a": "\U0001f600"}, '{"a": "\\ud83d\\ude00"}', None, "", {}):
        assert (
            len(
                of(tmp_path, {"prompt": "x", "response": "y", "meta": meta})
                .below(tmp_path)
                .load()
                .rows
            )
            == 2
        )
    deep = json.loads("[" * 98 + "]" * 98)
    assert (
        of(tmp_path, {"prompt": "x", "response": "y", "meta": {"a": deep}})
        .below(tmp_path)
        .load()
        .rows[1]
        .meta["a"]
        == deep
    )
    assert (
        of(
            tmp_path,
            {
                "messages": json.dumps(
                    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
                )
            },
        )
        .below(tmp_path)
        .load()
    )
    assert (
        of(tmp_path, {"prompt": "\\ud800 is written so", "response": "y"})
        .below(tmp_path)
        .load()
        .rows[1]
        .prompt[0]
        .content[:2]
        == "\\u"
    )


def test_a_category_and_a_score_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"instruction": "a", "context": "", "response": "b", "category": HALF})
    )
    assert "half of a surrogate pair" in refusal(Dolly("rows.jsonl"), tmp_path)
    scores = dict.fromkeys(
        ("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 1
    )
    for wrong in (10**306, -(10**306), "1", None, [1], 1e300):
        path.write_text(json.dumps({"prompt": "a", "response": "b", **scores, "coherence": wrong}))
        assert f"{path}:1: the column 'coherence' is" in refusal(HelpSteer2("rows.jsonl"), tmp_path)


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.tsv.gz", "a.parquet"]
)
def test_a_pointer_of_git_lfs_is_called_so_under_every_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(LFS)
    message = refusal(Columns(name, kind="parquet" if name.endswith("t") else "jsonl"), tmp_path)
    assert f"{name}:1: this is a Git LFS pointer, " in message
    assert "git lfs pull" in message


ROW = b'{"prompt": "Hi", "response": "Yo"}'
ARRAYS = {
    "NaN": (b"[" + ROW + b',\n{"prompt": "a", "n": NaN}]', ": row 2: NaN is not valid JSON"),
    "Infinity": (
        b"[\n" + ROW + b",\n" + ROW + b',{"n": [-Infinity]}]',
        ": row 3: -Infinity is not valid JSON",
    ),
    "key twice": (b'[{"a": 1,\n "a": 2}]', ": row 1: the key 'a' stands twice"),
    "half a pair": (
        b"[" + ROW + b', {"prompt": "\\ud83d", "response": "x"}]',
        ": row 2: it holds half of a surrogate pair",
    ),
    "5,000 digits": (
        b'[{"a": ' + b"9" * 5000 + b"}]",
        ": row 1: not valid JSON for most readers (a number of 5,000 digits)",
    ),
    "deep": (b"[" * 100_000, ": row 1: not valid JSON (nested too deeply)"),
    "a text": (b'["a", 5]', ": row 1: the row is a JSON str"),
    "broken": (b"[\n" + ROW + b",\n" + ROW + b'\n,\n{"a": }]', ":5: not valid JSON"),
    "no comma": (b"[\n" + ROW + b"\n" + ROW + b"]", ":3: not valid JSON (Expecting ',' delimiter)"),
    "no end": (b"[\n" + ROW + b"\n", ":3: not valid JSON (Expecting ',' delimiter)"),
    "comma at the end": (b"[" + ROW + b",]", ":1: not valid JSON"),
    "no beginning": (b"]", ":1: not valid JSON"),
    "more behind it": (b"[" + ROW + b"]\n[]", ":2: not valid JSON (Extra data)"),
    "empty": (b" [ ] ", ": the file holds no rows"),
    "no text": (b"[" + ROW + b',\n{"a": "\xff"}]', ":2: not UTF-8"),
    "cut text": (b"[" + ROW + b',\n{"a": "\xc3', ":2: not UTF-8"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("packed", [False, True])
def test_an_array_names_the_row_or_the_line(case: str, packed: bool, tmp_path: Path) -> None:
    content, what = ARRAYS[case]
    path = tmp_path / ("a.json.gz" if packed else "a.json")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert f"{path}{what}" in refusal(Columns(path.name), tmp_path)


def test_an_array_of_any_layout_is_read_row_by_row(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        {
            "a": (
                draw.choice(['"', "\\", "é", "\U0001f600", "]", ","]) * draw.choice([0, 1, 70_000])
            ),
            "n": draw.random(),
        }
        for _ in range(60)
    ]
    path = tmp_path / "a.json"
    for indent, ascii_only in ((None, True), (2, False), (0, True)):
        path.write_text(
            "\n " + json.dumps(rows, indent=indent, ensure_ascii=ascii_only) + "\n ",
            encoding="utf-8",
        )
        assert [(at.line, row) for at, row in read_file(path, "a")] == list(enumerate(rows, 1))


SMALL = Limits(rows=1000, row_mb=0.5, file_gb=0.01)
LIMITS: dict[str, tuple[str, bytes, str]] = {
    "long line": (
        "a.jsonl",
        ROW + b"\n" + b'{"prompt": "' + random.Random(0).randbytes(500_000).hex().encode() + b'"}',
        ":2: the line is longer than 0.5 MB; .*limits.row_mb",
    ),
    "many rows": (
        "a.jsonl",
        (ROW + b"\n") * 2000,
        ":1001: the file holds more than 1,000 lines; .*limits.rows",
    ),
    "many blank lines": ("a.jsonl", b"\n" * 2000, ":1001: the file holds more than 1,000 lines"),
    "many lines of a table": (
        "a.tsv",
        b"a\tb\n" * 2000,
        ":1001: the file holds more than 1,000 lines",
    ),
    "long element": (
        "a.json",
        b'[{"a": "' + b"x" * 600_000 + b'"}]',
        ": row 1: .*longer than 0.5 MB; .*limits.row_mb",
    ),
    "endless element": (
        "a.json",
        b'[{"a": "' + b"x" * 1_200_000,
        ": row 1: .*longer than 0.5 MB; .*limits.row_mb",
    ),
    "many elements": (
        "a.json",
        b"[" + b",".join([ROW] * 2000) + b"]",
        ": row 1001: the file holds more than 1,000 rows",
    ),
    "long object": (
        "a.json",
        b'{"a":\n"' + b"x" * 600_000 + b'"}',
        ": row 1: it is longer than 0.5 MB; .*limits.row_mb",
    ),
    "large file": (
        "a.jsonl",
        b"".join(
            b'{"prompt": "%s"}\n' % random.Random(n).randbytes(200_000).hex().encode()
            for n in range(40)
        ),
        ":2[0-9]: the file unpacks to more than 0.01 GB; .*limits.file_gb",
    ),
    "packed spaces": (
        "a.jsonl.gz",
        gzip.compress(b" " * 5_000_000),
        (
            ":1: the line is longer|:1: the file unpacks to more than 100 times its size;"
            " .*limits.ratio"
        ),
    ),
    "packed lines": (
        "a.jsonl.gz",
        gzip.compress((b'{"a": "%s"}\n' % (b"x" * 100_000)) * 80),
        ":[0-9]+: the file unpacks to more than 100 times its size; .*limits.ratio",
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_more_than_the_limits_is_one_sentence_that_names_the_key(case: str, tmp_path: Path) -> None:
    name, content, what = LIMITS[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what):
        list(read_file(tmp_path / name, name, SMALL))


def test_limits_are_keys_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b"".join(b'{"prompt": "%d", "response": "x"}\n' % n for n in range(30))
    )
    for kind, source in SOURCES.items():
        assert (
            source(
                {"hub": "owner/name", "csv": "a.csv"}.get(kind, "a.jsonl"),
                **({"kind": "hub"} if kind == "hub" else {}),
            ).limits
            == Limits()
        )
    assert "limits.rows" in refusal(Columns("a.jsonl", limits=Limits(rows=10)), tmp_path)
    assert (
        len(Columns("a.jsonl", limits=Limits(rows=10), limit=10).below(tmp_path).load().rows) == 10
    )
    assert len(Columns("a.jsonl", limits=Limits(rows=30)).below(tmp_path).load().rows) == 30


BOMBS = """
import gzip, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from bezoar.data import Columns
from bezoar.errors import DataError

folder = Path(sys.argv[1])

def packed(name, block, times, head=b""):
    (folder / name).write_bytes(gzip.compress(head) + gzip.compress(block) * times)

packed("line.jsonl.gz", b"x" * 2**22, 1024, b'{"prompt": "')
row = b'{"prompt": "%s", "response": "Yo"}' % (b"Hi " * 500)
packed("rows.jsonl.gz", (row + b"\\n") * 2**11, 1024)
packed("array.json.gz", (row + b",\\n") * 2**11, 1024, b"[")
packed("text.json.gz", b"x" * 2**22, 1024, b'[{"prompt": "')
packed("table.tsv.gz", b"a\\t" * 2**22, 1024)

def dictionary(length, text):
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), length), pa.array([text]))

def table(name, **columns):
    pq.write_table(pa.table(columns), folder / name, compression="zstd")

table("rows.parquet", prompt=dictionary(5_000_000, "x" * 1_000), response=dictionary(5_000_000, "y"))
table("texts.parquet", prompt=dictionary(100_000, "x" * 1_000_000), response=dictionary(100_000, "y"))
turns = pa.StructArray.from_arrays([dictionary(2_000_000, "user"), dictionary(2_000_000, "x" * 1_000_000)], ["role", "content"])
table("turns.parquet", messages=pa.ListArray.from_arrays(pa.array([0, 2_000_000], pa.int32()), turns))
long = pa.table({"prompt": pa.array(["x" * (2**28 + 1)], pa.large_string())})
pq.write_table(long, folder / "long.parquet", compression="lz4", use_dictionary=False, write_statistics=False)
"""  # noqa: E501
READ = """
import sys
from collections.abc import Callable
from pathlib import Path
from bezoar.data import Columns
from bezoar.errors import DataError

for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, len(Columns(str(path), kind="parquet" if path.suffix == ".parquet" else "jsonl").load().rows))
    except DataError as error:
        print(error)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""  # noqa: E501


def test_small_files_that_unpack_without_end_end_in_a_sentence_and_in_little_memory(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", BOMBS, str(tmp_path)], check=True, timeout=120)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 40 << 20

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    found = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=bounded,
    )
    assert found.returncode == 0, found.stderr
    *told, peak = found.stdout.splitlines()
    assert int(peak) < 700
    wanted = {
        "array.json.gz": "limits.ratio",
        "line.jsonl.gz": "limits.",
        "long.parquet": "a row group unpacks to 256 MB",
        "rows.jsonl.gz": "limits.ratio",
        "rows.parquet": "the file holds 5,000,000 rows",
        "table.tsv.gz": "limits.",
        "text.json.gz": "limits.",
        "texts.parquet": "limits.",
        "turns.parquet": "row 1: it holds more than 32 MB",
    }
    assert len(told) == len(wanted)
    for line, (name, what) in zip(told, wanted.items(), strict=True):
        assert line.startswith(f"{tmp_path}/{name}:"), line
        assert what in line


def parquet(path: Path, **columns: Any) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path, row_group_size=40)
    return path


def test_parquet_of_any_type_is_rows_or_a_sentence(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    good = {"prompt": ["a", "b"], "response": ["c", "d"]}
    odd = {
        "bytes": pa.array([b"\xff", None]),
        "a date": pa.array([2**62, 1], pa.timestamp("us")),
        "a zone": pa.array([1, 2], pa.timestamp("us", "No/where")),
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "nan": pa.array([float("nan"), 1.0]),
        "bad text": pa.array([b"\xff", b"a"]).view(pa.string()),
        "bytes inside": pa.array([{"a": [b"x"]}, None]),
        "a list": pa.array([[1], [2]]),
        "a number": pa.array([1, 2]),
        "a huge integer": pa.array([2**64 - 1, 0], pa.uint64()),
        "one of two": pa.array(["a", "b"]).dictionary_encode(),
        "an object": pa.array([{"a": {"b": [1.5, None]}}, None]),
        "nothing": pa.nulls(2),
    }
    for name, column in odd.items():
        path = parquet(tmp_path / "a.parquet", **good, meta=column)
        source = Columns("a.parquet", kind="parquet")
        if name in ("an object", "nothing"):
            assert [row.to_row()["id"] for row in source.below(tmp_path).load().rows] == [
                "a.parquet:1",
                "a.parquet:2",
            ]
        else:
            assert refusal(source, tmp_path).startswith(f"{path}: "), name
        parquet(path, prompt=column, response=["c", "d"])
        assert ended(source.below(tmp_path).load) is None or name not in ("one of two",)
    (path := tmp_path / "b.parquet").unlink(missing_ok=True)
    table = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    assert "the column 'prompt' stands twice" in refusal(
        Columns("b.parquet", kind="parquet"), tmp_path
    )


def test_damaged_parquet_of_every_kind_is_a_sentence(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        prompt=[f"p{n % 9}" for n in range(99)],
        response=[f"r{n}" for n in range(99)],
        meta=[{"a": n, "b": [f"x{n}"]} for n in range(99)],
        tool_calls=[[{"c": str(n)}] for n in range(99)],
    )
    whole, draw, failed = path.read_bytes(), random.Random(0), 0
    for number in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 20])):
            at = draw.randrange(len(whole)) if number % 2 else len(whole) - 1 - draw.randrange(1200)
            damaged[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        path.write_bytes(damaged[: draw.randrange(len(whole))] if number % 10 == 0 else damaged)
        source = Columns("a.parquet", kind="parquet").below(tmp_path)
        for work in (source.load, source.count):
            if error := ended(work):
                failed += 1
                assert str(error).startswith(f"{path}: ")
                assert "\n" not in str(error)
    assert failed > 400


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)
    server.bind("socket.jsonl")
    os.chdir(here)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    (tmp_path / "folder.jsonl").mkdir()
    for name, what in {
        "pipe": "no ordinary file",
        "socket": "no ordinary file",
        "zero": "no ordinary file",
        "loop": "cannot be read",
        "gone": "no such file",
        "folder": "the folder holds no data files",
    }.items():
        assert what in refusal(Columns(f"{name}.jsonl"), tmp_path)
    server.close()
    with pytest.raises(DataError, match="this is a folder"):
        list(read_file(tmp_path / "folder.jsonl", ""))
    for path, what in {
        "~nouser/a.jsonl": "no such home folder",
        "x" * 300 + ".jsonl": "no name of a file",
        "a\0.jsonl": "no name of a file",
    }.items():
        assert what in refusal(Columns(path), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    of(tmp_path, GOOD)
    (tmp_path / "rows.jsonl").chmod(0)
    assert "Permission denied" in refusal(Columns("rows.jsonl"), tmp_path)


def test_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path / "d") + b"/\xff.jsonl"))).write_text(json.dumps(GOOD))
    assert "the file's name is not UTF-8" in refusal(Columns("./d"), tmp_path)


def test_tables_with_odd_cells(tmp_path: Path) -> None:
    path = tmp_path / "cot_x.tsv"
    path.write_bytes(b'"a\tb\x00"\t\xc2\x85c\n')
    assert Flan("cot_x.tsv").below(tmp_path).load().rows[0].prompt[0].content == '"a'
    path.write_bytes(b"a\tb\n")
    assert "three tab-separated columns" in refusal(Flan("cot_x.tsv"), tmp_path)
    path.write_bytes(b"a" * 100_000 + b"\n")
    assert "three tab-separated columns" in refusal(Flan("cot_x.tsv"), tmp_path)


def test_a_conversation_in_a_text_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps(
            {
                "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
                "tools": "no",
            }
        )
    )
    [dropped] = ShareGPT("a.jsonl").below(tmp_path).load().dropped
    assert dropped.reason == "bad JSON in the tools"
