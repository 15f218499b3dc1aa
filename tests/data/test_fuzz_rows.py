"""Any rows in any file: they are read, or dropped and counted, or one sentence names the file; what is read can be stored and sifted."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")
from bounded import sentence
from hypothesis import example, given
from hypothesis import strategies as st

from bezoar.chat.types import Comparison, as_chats, row_to_item
from bezoar.data import SOURCES
from bezoar.evals.agreement import ratings_agreement
from bezoar.io import read_parquet, write_parquet
from bezoar.judge.attribute_pairs import AttributePairs
from bezoar.judge.form import Dedup, Form
from bezoar.judge.steer import Steer

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
GOOD: dict[str, list[dict[str, Any]]] = {
    "dolly": [{"instruction": "a", "context": "b", "response": "c", "category": "d"}],
    "flan": [
        {"inputs": "a", "targets": "b", "submix": "cot", "task_name": "t", "template_type": "zs_opt"}, {"template": "t", "prompt": "p", "completion": "c"},
        {"Definition": ["d"], "Categories": ["c"], "Instances": [{"input": "i", "output": ["o"]}]}, {"topic": "a", "instruction": "b", "output": "c"},
    ],
    "hh_rlhf": [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}],
    "ultrafeedback": [{"prompt": "a", "chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No"}], "score_chosen": 2.0, "score_rejected": 1}],
    "helpsteer2": [{"prompt": "a", "response": "b", "helpfulness": 1, "correctness": 2, "coherence": 3, "complexity": 4, "verbosity": 0}],
    "helpsteer2_preference": [{"prompt": "a", "response_1": "b", "response_2": "c", "preference_strength": -2, "split": "train"}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
                                    {"from": "observation", "value": "1"}, {"from": "gpt", "value": "b"}], "system": "s", "tools": "[]"}],
    "critiques": [{"prompt": "a", "response": "b", "critique": "c", "revision": "d"}],
    "jsonl": [
        {"messages": TURNS, "meta": {"attributes": {"helpfulness": 1}, "ratings": [{"a": 1}, {"a": 2}], "strength": 1}}, {"prompt": "a", "response": "b", "meta": "{}"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "meta": {}}, {"messages": [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
    ],
}  # fmt: skip
KEYS = sorted({key for rows in GOOD.values() for row in rows for key in row} | {"role", "content", "from", "value", "name", "arguments", "helpfulness", "a"})
TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(["", " ", "\ud800", "\0", "{", "[1]", '{"a": NaN}', "\n\nHuman: x\n\nAssistant:", "<extra_id_1>User\n", "x" * 3000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-5, 5) | st.floats(allow_nan=True) | TEXT | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=3),
    max_leaves=6,
)


def changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with one place in it replaced, added or taken away."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
        return draw(JSON)
    value = value.copy()
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
    what = draw(st.sampled_from(["inside", "inside", "gone", "more"]))
    if what == "inside":
        value[key] = changed(draw, value[key])
    elif what == "gone":
        value.pop(key)
    elif isinstance(value, dict):
        value[draw(st.sampled_from(KEYS))] = draw(JSON)
    else:
        value.append(draw(JSON))
    return value


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A kind of source, the name of a file, and its bytes: rows of the kind, some of them changed, some bytes changed too."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    rows = [draw(st.sampled_from(GOOD[kind])) for _ in range(draw(st.integers(1, 4)))]
    rows = [changed(draw, row) if draw(st.booleans()) else row for row in rows]
    name = draw(st.sampled_from(["a.jsonl", "a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.tsv"]))
    encoded = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
    joined = "[" + ",\n".join(encoded) + "]" if ".json" in name and "l" not in name else "\n".join(encoded)
    data = bytearray(joined.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 5]))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    data = bytearray(gzip.compress(bytes(data))) if name.endswith(".gz") else data
    if draw(st.integers(0, 9)) == 0:
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return kind, name, bytes(data)


def use(source: Any, folder: Path) -> None:
    """Read, store, read back, sift: what the first stages of a recipe do."""
    sifted = source.load(folder)
    assert len(sifted.rows) <= source.count(folder)
    if sifted.rows:
        write_parquet(folder / "rows.parquet", [row.to_row() for row in sifted.rows])
        assert [row_to_item(row) for row in read_parquet(folder / "rows.parquet")] == sifted.rows
    chats = as_chats(sifted.rows)
    for sieve in (Form("x"), Dedup("x"), Steer("x"), Steer("x", only=("helpfulness",)), AttributePairs("x")):
        sentence(lambda sieve=sieve: sieve.sift(chats))
    ratings_agreement(chats)
    assert all(row.swap().swap() == row for row in sifted.rows if isinstance(row, Comparison))


@given(file=files(), seeded=st.booleans())
@example(file=("jsonl", "a.jsonl", b'{"prompt": "a", "response": "b", "meta": {"attributes": 5}}'), seeded=False)
@example(file=("jsonl", "a.jsonl", b'{"prompt": "a", "response": "b", "meta": {"ratings": 5}}'), seeded=True)
def test_any_file_is_rows_or_one_sentence(file: tuple[str, str, bytes], seeded: bool, tmp_path: Path) -> None:
    kind, name, data = file
    (tmp_path / name).write_bytes(data)
    told = sentence(lambda: use(SOURCES[kind](name, shuffle_seed=3 if seeded else None), tmp_path))
    assert not told or str(tmp_path / name) in told or told.startswith(name), told
    (tmp_path / name).unlink()
