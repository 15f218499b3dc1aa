"""Files of rows with odd values and damaged bytes, through every source: rows that can be stored,
counted drops, or one sentence."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.chat.types import Dropped
from bezoar.data import SOURCES, Columns
from tests.helpers.fuzzing import (
    TEXTS,
    VALUES,
    bounded,
    changed,
    damaged,
    fuzz,
    json_bytes,
    json_lines,
    stored,
)

SAID = [
    {"role": "user", "content": "Why?"},
    {
        "role": "assistant",
        "content": "Because.",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}}],
    },
]
SCORES = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 3)
ROWS: dict[str, list[dict[str, Any]]] = {
    "dolly": [
        {
            "instruction": "Sum up.",
            "context": "Text.",
            "response": "Short.",
            "category": "summarization",
        }
    ],
    "flan": [
        {
            "inputs": "Q",
            "targets": "A",
            "submix": "cot",
            "task_name": "t",
            "template_type": "zs_opt",
            "rationale": "R",
        },
        {"inputs": "Q", "targets": "A", "task_source": "P3"},
        {"template": "t", "prompt": "Q", "completion": "A"},
        {
            "Definition": ["Do."],
            "Instances": [{"input": "i", "output": ["o"], "id": "1"}],
            "Categories": ["c"],
        },
        {"0": "Q", "1": "A", "2": "R"},
    ],
    "hh_rlhf": [
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    ],
    "ultrafeedback": [
        {
            "prompt": "Q",
            "chosen": SAID,
            "rejected": [SAID[0], {"role": "assistant", "content": "No."}],
            "score_chosen": 8.0,
            "score_rejected": 3,
        },
        {
            "prompt": "Q",
            "chosen": "A",
            "rejected": "B",
            "metadata": {"score_chosen": 8.0, "score_rejected": 3},
        },
    ],
    "helpsteer2": [
        {"prompt": "Q<extra_id_1>Assistant\nA\n<extra_id_1>User\nQ", "response": "A", **SCORES}
    ],
    "helpsteer2_preference": [
        {
            "prompt": "Q",
            "response_1": "A",
            "response_2": "B",
            "preference_strength": -2,
            "split": "train",
        }
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
            "system": "S",
            "tools": '[{"name": "f"}]',
        }
    ],
    "critiques": [
        {"prompt": "Q", "response": "A", "critique": "C", "revision": "R"},
        {"prompt": SAID[:1], "response": "A", "critique": "C", "revision": "R"},
    ],
    "alpaca": [
        {"instruction": "Do.", "input": "i", "output": "o", "system": "S"},
        {"instruction": "Do.", "output": "o", "text": "Do. o"},
    ],
    "jsonl": [
        {"prompt": "Q", "response": "A", "meta": {"target": "T"}},
        {"messages": SAID, "meta": '{"a": 1}'},
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"chosen": SAID, "rejected": [SAID[0], {"role": "assistant", "content": "No."}]},
    ],
}


@st.composite
def files(draw: st.DrawFn, rows: list[dict[str, Any]]) -> tuple[str, bytes]:
    """A file's suffix and its bytes."""
    kind = draw(
        st.sampled_from(
            [".jsonl"] * 5
            + [".json", ".json", ".tsv", ".jsonl.gz", ".json.gz", ".parquet", ".parquet"]
        )
    )
    if kind == ".parquet":
        return kind, draw(parquet(rows))
    if kind == ".tsv":
        sheet = io.StringIO()
        table = draw(st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=4))
        csv.writer(sheet, delimiter="\t").writerows(table)
        return kind, draw(damaged(sheet.getvalue().encode(), 2))
    if kind.startswith(".jsonl"):
        data = draw(json_lines(rows))
    else:
        value = draw(
            st.lists(st.sampled_from(rows).flatmap(changed), max_size=4)
            | st.sampled_from(rows).flatmap(changed)
            | VALUES
        )
        data = draw(damaged(json.dumps(value, indent=draw(st.sampled_from([None, 1]))).encode(), 2))
    return kind, draw(damaged(gzip.compress(data, 1), 1)) if kind.endswith(".gz") else data


@st.composite
def parquet(draw: st.DrawFn, rows: list[dict[str, Any]]) -> bytes:
    """A Parquet file with columns of any type that its writer accepts, perhaps with damaged
    bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: dict[str, Any] = {}
    num = draw(st.sampled_from([1, 2, 3, 0]))
    for name, value in draw(
        st.sampled_from(rows).flatmap(
            lambda row: changed(row, 1).filter(lambda v: isinstance(v, dict))
        )
    ).items():
        cells = [draw(st.sampled_from([value] * 6 + [None, "x"])) for _ in range(num)]
        try:
            table[name] = pa.array(cells)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            table[name] = pa.array(
                [json_bytes(cell) for cell in cells],
                draw(st.sampled_from([pa.binary(), pa.large_binary()])),
            )
        if pa.types.is_string(table[name].type) and draw(st.booleans()):
            table[name] = table[name].dictionary_encode()
    sink = io.BytesIO()
    try:
        pq.write_table(
            pa.table(table), sink, compression=draw(st.sampled_from(["none", "snappy", "zstd"]))
        )
    except (pa.ArrowException, UnicodeEncodeError):
        return b"PAR1"
    data = sink.getvalue()
    return draw(damaged(data, 2)) if draw(st.booleans()) else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", ROWS)
@fuzz(0.02, few=8)
@given(data=st.data())
def test_no_file_breaks_a_source(kind: str, data: st.DataObject, folder: Path) -> None:
    suffix, content = data.draw(files(ROWS[kind]))
    name = f"given{suffix}"
    (folder / name).write_bytes(content)
    source = (Columns if kind == "jsonl" else SOURCES[kind])(
        name, **data.draw(st.sampled_from([{}, {}, {"shuffle_seed": 1}, {"limit": 1}, {"skip": 1}]))
    )
    with bounded():
        sifted = source.below(folder).load()
        stored(sifted.rows, folder)
        assert source.below(folder).count() >= len(sifted.rows)
        assert all(isinstance(item, Dropped) and item.reason for item in sifted.dropped)


@fuzz(0.02, few=8)
@given(data=st.data())
def test_no_bytes_break_a_csv_file(data: st.DataObject, folder: Path) -> None:
    sheet = io.StringIO()
    rows = [["prompt", "response"], *data.draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))]
    csv.writer(sheet, delimiter=data.draw(st.sampled_from(",;\t"))).writerows(rows)
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    content = data.draw(damaged(sheet.getvalue().encode(encoding, "replace"), 2))
    (folder / "given.csv").write_bytes(content)
    keys = [{}, {"delimiter": ";"}, {"encoding": "utf-16"}, {"encoding": "latin-1"}]
    with bounded():
        sifted = (
            SOURCES["csv"]("given.csv", **data.draw(st.sampled_from(keys))).below(folder).load()
        )
        stored(sifted.rows, folder)
