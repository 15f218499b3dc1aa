"""A few rows of a set and the lengths of many, in one pass over its Parquet file."""

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from bezoar.io import Row
from bezoar.parquet import num_rows, read_parquet

MAX_READ = 20_000
_FIX = "run its stage again"


@dataclass(frozen=True)
class RowSet:
    """`num` rows in the file, of which the first `MAX_READ` were read; `lengths` are words of all
    their messages."""

    num: int
    samples: list[Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


def read_rows(path: Path, num_samples: int = 4) -> RowSet:
    """Read a set: samples evenly spaced over the rows that are read, in their order. DataError when
    it is no Parquet file."""
    num = num_rows(path, _FIX)
    wanted = spaced(min(num, MAX_READ), num_samples)
    samples, lengths = [], []
    for index, row in enumerate(islice(read_parquet(path, fix=_FIX), MAX_READ)):
        lengths.append(num_words(row))
        if index in wanted:
            samples.append(row)
    return RowSet(num, samples, lengths)


def spaced(num: int, wanted: int) -> set[int]:
    """Up to `wanted` indices spread evenly over `num`."""
    return (
        {(2 * i + 1) * num // (2 * wanted) for i in range(wanted)}
        if num > wanted
        else set(range(num))
    )


def num_words(row: Row) -> int:
    """Whitespace-separated words in all messages; of a comparison, the prompt with the chosen
    answer, of several answers with the first."""
    said = [
        str(m.get("content") or "")
        for name in ("messages", "prompt", "chosen")
        for m in row.get(name) or []
    ]
    return sum(len(text.split()) for text in [*said, *(row.get("answers") or [])[:1]])


def meta(row: Row) -> Row:
    """The provenance of a row; what is not a JSON object stands under `meta`."""
    try:
        value = json.loads(row.get("meta") or "{}")
    except (ValueError, RecursionError):
        value = row["meta"]
    return value if isinstance(value, dict) else {"meta": value}
