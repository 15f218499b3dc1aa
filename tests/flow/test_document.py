"""Hostile and odd YAML: one sentence with the line, in bounded time and memory; what is plain is
read as YAML 1.2 says."""

import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import BezoarError, RecipeError
from bezoar.flow.cache_key import all_keys
from bezoar.flow.model_argument import find_model
from bezoar.flow.recipe import load_recipe
from bezoar.flow.yaml_document import MOST_DEPTH, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join(['*' + b] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [{', '.join(['*' + b] * 9)}]}}\n"
    for b, c in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 5_000) + "]\n"
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2_000))

REFUSED = {
    "alias bomb": (BOMB, "anchors written out"),
    "merge bomb": (MERGES, "anchors written out"),
    "one text a thousand times": (TEXTS, "anchors written out"),
    "chain of aliases": (CHAIN, ":1: a63.0.*levels deep with its anchors"),
    "self anchor": ("stages: &a [*a]\n", ":1: stages.0: an anchor holds itself"),
    "self anchor in a table": (
        "stages: &a {x: {y: *a}}\n",
        ":1: stages.x.y: an anchor holds itself",
    ),
    "self merge": ("stages: &a {<<: *a}\n", ":1: .*an anchor holds itself"),
    "deep lists": ("a: " + "[" * 100_000, ":1: more than 64 levels deep"),
    "deep tables": ("a: " + "{a: " * 100_000, ":1: more than 64 levels deep"),
    "deep block": (
        "\n".join(" " * n + "a:" for n in range(1_000)),
        ":64: more than 64 levels deep",
    ),
    "deep dashes": ("- " * 10_000 + "x", ":1: more than 64 levels deep"),
    "many values": ("a: [" + "1, " * 300_000 + "]", "more than 10,000 values"),
    "long integer": ("seed: " + "9" * 5_000, ":1: seed: 9{40}... is no integer of 64 bits"),
    "long hex": ("seed: 0x" + "f" * 5_000, "no integer of 64 bits"),
    "long octal": ("seed: 0o" + "7" * 5_000, "no integer of 64 bits"),
    "long binary": ("seed: 0b" + "1" * 5_000, "for YAML 1.1"),
    "long sexagesimal": ("seed: 1" + ":59" * 3_000, "for YAML 1.1"),
    "65 bits": ("seed: 9223372036854775808", "no integer of 64 bits"),
    "octal of 1.1": ("seed: 010", ":1: seed: 010 starts with a zero"),
    "no octal": ("seed: 08", "starts with a zero"),
    "negative octal": ("seed: -010", "starts with a zero"),
    "sexagesimal": ("seed: 1:30", "1:30 is an integer for YAML 1.1"),
    "sexagesimal float": ("seed: 1:30.5", "is a number for YAML 1.1"),
    "underscores": ("seed: 1_000", "is an integer for YAML 1.1"),
    "binary number": ("seed: 0b11", "is an integer for YAML 1.1"),
    "date": ("name: 2024-01-01", "2024-01-01 is a date for YAML 1.1 .* put it in quotes"),
    "time": ("name: 2024-01-01 10:00:00", "is a date for YAML 1.1"),
    "date as a key": ("2024-01-01: x", "is a date for YAML 1.1"),
    "yes": ("a: yes", "yes is true or false for YAML 1.1 .* write true, false"),
    "off": ("a: [off]", "a.0: off is true or false"),
    "nan": ("budget_usd: .nan", ":1: budget_usd: .nan is not finite"),
    "inf": ("budget_usd: -.INF", "-.INF is not finite"),
    "overflow": ("budget_usd: 1e999", "1e999 is not finite"),
    "long float": ("budget_usd: " + "9" * 5_000 + ".0", "is not finite"),
    "binary": ("name: !!binary aGVsbG8=", ":1: the tag '!!binary' is not read"),
    "set": ("a: !!set {x}", "the tag '!!set'"),
    "omap": ("a: !!omap [x: 1]", "the tag '!!omap'"),
    "timestamp": ("a: !!timestamp '2024-01-01'", "the tag '!!timestamp'"),
    "python": (
        "a: !!python/object/apply:os.system [ls]",
        "the tag '!!python/object/apply:os.system'",
    ),
    "own tag": ("a: !x y", "the tag '!x'"),
    "integer tag": ("a: !!int 3", "the tag '!!int'"),
    "NUL": ('name: "a\\0b"', ":1: name: the text holds NUL"),
    "raw NUL": ("name: a\0b", ":1: not valid YAML .*U\\+0000"),
    "raw escape": ("x: 1\nname: a\x1bb", ":2: not valid YAML .*U\\+001B"),
    "surrogate": ('name: "\\ud800"', "half of a surrogate pair"),
    "surrogate key": ('"\\ud800": x', "half of a surrogate pair"),
    "integer key": ("1: x", "the key 1 is not a text"),
    "null key": ("~: x", "the key ~ is not a text"),
    "boolean key": ("true: x", "the key true is not a text"),
    "list as a key": ("[a]: x", "a key is a list or a table"),
    "table as a key": ("{a: b}: x", "a key is a list or a table"),
    "long key": ("a" * 300 + ": x", "1 to 200 printable characters"),
    "newline in a key": ('"a\\nb": x', "1 to 200 printable characters"),
    "escape in a key": ('"a\\eb": x', "1 to 200 printable characters"),
    "empty key": ('"": x', "1 to 200 printable characters"),
    "twice": ("a: 1\nb: {c: 1,\n  c: 2}", ":3: b.c: the key stands twice"),
    "merge of a text": ("a: {<<: x}", "<< merges tables"),
    "two documents": ("a: 1\n---\nb: 2\n", ":2: not valid YAML .*another document"),
    "tab": ("a:\n\tb: 1\n", ":2: not valid YAML"),
    "no anchor": ("a: *b", ":1: not valid YAML .*undefined alias"),
    "anchor twice": ("a: &a 1\nb: &a 2\n", ":2: not valid YAML .*duplicate anchor"),
    "wrong directive": ("%YAML 9.9\n---\na: 1\n", "not valid YAML"),
    "mark": ("\ufeffa: 1", "byte order mark"),
}


def refusal(path: Path) -> str:
    """The one sentence about a file, got in a second and in 100 MB."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(RecipeError) as error:
            read_yaml(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 5
    message = str(error.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, what = REFUSED[case]
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    message = refusal(path)
    assert re.search(what, message), message


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    with big.open("wb") as stream:
        stream.truncate(100 << 20)
    assert "more than 1 MB" in refusal(big)
    wide = tmp_path / "wide.yaml"
    wide.write_text('a: "\u00e9"', encoding="utf-16")
    assert "UTF-16" in refusal(wide)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "no ordinary file" in refusal(pipe)
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.yaml")
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))


PLAIN: dict[str, Any] = {
    "0": 0,
    "-7": -7,
    "+7": 7,
    "0x10": 16,
    "0o10": 8,
    "9223372036854775807": 2**63 - 1,
    "1e-4": 1e-4,
    "1.": 1.0,
    ".5": 0.5,
    "08.5": 8.5,
    "1e5": 1e5,
    "true": True,
    "FALSE": False,
    "~": None,
    "": None,
    "Null": None,
    "'010'": "010",
    '"yes"': "yes",
    "'2024-01-01'": "2024-01-01",
    "nan": "nan",
    "=": "=",
    "1.2.3": "1.2.3",
    "v2": "v2",
    "a b": "a b",
    "|-\n  .nan": ".nan",
    '"\\U0001F600"': "\U0001f600",
    "[1, a]": [1, "a"],
}


@pytest.mark.parametrize("text", PLAIN)
def test_plain_values_are_those_of_yaml_1_2(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"a: {text}\n", encoding="utf-8")
    value = read_yaml(path)[0]["a"]
    assert value == PLAIN[text]
    assert type(value) is type(PLAIN[text])


def test_on_and_no_are_names_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("on: a\nno: {yes: b}\n")
    assert read_yaml(path)[0] == {"on": "a", "no": {"yes": "b"}}


def test_own_keys_replace_merged_ones_and_every_key_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "a: &a\n  x: 1\n  y: 2\nb: &b {y: 3, z: 4}\nc:\n  x: 0\n  <<: [*a, *b]\nd: {<<: *a}\n"
    )
    value, lines = read_yaml(path)
    assert value["c"] == {"x": 0, "y": 2, "z": 4}
    assert list(value["d"]) == ["x", "y"]
    assert [
        lines[at] for at in (("c",), ("c", "x"), ("c", "y"), ("c", "z"), ("d", "y"), ("d",))
    ] == [5, 6, 3, 4, 3, 8]


def test_as_deep_as_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert read_yaml(path)[0] == eval("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    path.write_text("")
    assert read_yaml(path) == (None, {})


RECIPE = """name: {name}
models: {{base: {{path: smollm2-135m-instruct}}}}
backends: {{judge: {judge}}}
stages:
  {stage}: {source}
  kept: {{kind: filter, rows: {rows}, judge: judge}}
  tuned: {{kind: train, model: base, rows: kept, objective: {objective}}}
"""
GOOD = {
    "name": "toy",
    "stage": "rows",
    "rows": "rows",
    "source": "{kind: dolly, path: bezoar:instructions.jsonl}",
    "objective": "{kind: sft}",
    "judge": "{kind: endpoint, url: 'http://127.0.0.1:1/v1', model: m}",
}


def loaded(tmp_path: Path, **change: str) -> Any:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(**{**GOOD, **change}), encoding="utf-8")
    return load_recipe(path)


NAMES = {
    "'a\\0b'": '"a\\0b"',
    "control": '"a\\nb"',
    "escape": '"a\\eb"',
    "direction": '"a\\u202eb"',
    "slash": "a/b",
    "dot": ".",
    "dots": "..",
    "hidden": ".a",
    "blank": "' '",
    "empty": "''",
    "long": "x" * 256,
    "long with what stands before it": "x" * 240,
    "long in bytes": "é" * 120,
    "journal": "journal.sqlite",
    "its log": "journal.sqlite-wal",
    "capital": "Journal.SQLite",
    "metrics": "metrics.jsonl",
    "a date": "2024-01-01",
    "an integer": "7",
    "null": "~",
    "a list": "[a]",
    "binary": "!!binary aGVsbG8=",
    "half": '"\\udc00"',
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_no_folder_can_have(case: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:1: "):
        loaded(tmp_path, name=NAMES[case])
    if case not in ("a date",):
        with pytest.raises(RecipeError, match=r"r.yaml:5: "):
            loaded(tmp_path, stage=NAMES[case], rows=NAMES[case])


def test_a_long_name_that_is_allowed_has_room_for_what_stands_around_it(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, name="x" * 200, stage="s" * 200, rows="s" * 200)
    (tmp_path / f".partial-100-{'s' * 200}").mkdir()
    (tmp_path / f".work-{'s' * 200}-0123456789abcdef").mkdir()
    assert recipe.name == "x" * 200


KINDS = {
    "list": "[x]",
    "table": "{a: 1}",
    "number": "3",
    "null": "null",
    "true": "true",
    "long": "x" * 100_000,
    "self": "&a [*a]",
    "twice": "dolly, kind: dolly",
    "newline": '"a\\nb"',
}


@pytest.mark.parametrize("case", KINDS)
def test_a_kind_is_a_text_that_is_known(case: str, tmp_path: Path) -> None:
    for key, line in (("source", 5), ("objective", 7), ("judge", 3)):
        with pytest.raises(RecipeError, match=rf"r.yaml:{line}: ") as error:
            loaded(tmp_path, **{key: f"{{kind: {KINDS[case]}}}"})
        assert len(str(error.value)) < 1000
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "number", [".nan", ".inf", "-.inf", "1e999", "'.nan'", "0x7fffffffffffffffffffffffffffffff"]
)
@pytest.mark.parametrize("key", ["timeout_s", "backoff_s", "prices", "extra"])
def test_numbers_of_a_backend_are_finite(key: str, number: str, tmp_path: Path) -> None:
    value = {
        "prices": f"{{input_usd_per_million: {number}, output_usd_per_million: 0}}",
        "extra": f"{{temperature: {number}}}",
    }.get(key, number)
    judge = GOOD["judge"].replace("model: m", f"model: m, {key}: {value}")
    if (key, number) == ("extra", "'.nan'"):
        assert loaded(tmp_path, judge=judge).backends["judge"].extra == {"temperature": ".nan"}
        return
    with pytest.raises(RecipeError, match=r"r.yaml:3: "):
        loaded(tmp_path, judge=judge)


@pytest.mark.parametrize(
    "path",
    [
        "~nouser/x.jsonl",
        "'a\\0.jsonl'",
        '"a\\0.jsonl"',
        pytest.param("x" * 300 + ".jsonl", id="long"),
        pytest.param("x/" * 3000 + "a.jsonl", id="far"),
        "/dev/zero",
        ".",
        "loop",
    ],
)
@pytest.mark.parametrize("key", ["rubric", "examples"])
def test_paths_that_name_no_file(path: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BezoarError) as error:
        loaded(tmp_path, source=f"{{kind: dolly, path: {path}}}").stages["rows"].below(
            tmp_path
        ).load()
    assert len(str(error.value)) < 1000
    recipe = tmp_path / "p.yaml"
    recipe.write_text(
        RECIPE.format(**GOOD).replace("judge: judge}", f"judge: judge, {key}: {path}}}")
    )
    with pytest.raises(BezoarError) as error:
        all_keys(load_recipe(recipe))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", [BOMB, "kind: [x]", "kind: endpoint\ntimeout_s: .nan", "", "[]", "a: " + "[" * 5000]
)
def test_a_backend_of_the_command_line_is_read_alike(text: str, tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"b.yaml"):
        find_model(str(path))
    with pytest.raises(BezoarError):
        find_model("~nouser/b.yaml")
