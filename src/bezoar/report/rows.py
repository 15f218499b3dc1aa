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
    """What was read of a set."""

    num: int
    """Rows in the file, of which at most `MAX_READ` are read."""
    samples: list[Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Words of all messages of each row."""


def read_rows(path: Path, num_samples: int = 4) -> RowSet:
    """Read a set; its samples are evenly spaced over the rows that are read, in their order."""
    num = num_rows(path, _FIX)
    wanted = spaced(min(num, MAX_READ), num_samples)
    samples, lengths = [], []
    # One pass: samples and lengths come from the same rows, and a long set is not read whole.
    for index, row in enumerate(islice(read_parquet(path, fix=_FIX), MAX_READ)):
        lengths.append(num_words(row))
        if index in wanted:
            samples.append(row)
    return RowSet(num, samples, lengths)


def spaced(num: int, wanted: int) -> set[int]:
    """Up to `wanted` indices spread evenly over `num`."""
    if num <= wanted:
        return set(range(num))
    # The middle of each of `wanted` equal parts: neither the first nor the last row is special.
    return {(2 * i + 1) * num // (2 * wanted) for i in range(wanted)}


def num_words(row: Row) -> int:
    """Whitespace-separated words of the messages, the chosen answer or the first of several."""
    names = ("messages", "prompt", "chosen")
    texts = [str(m.get("content") or "") for name in names for m in row.get(name) or []]
    return sum(len(text.split()) for text in [*texts, *(row.get("answers") or [])[:1]])


def meta(row: Row) -> Row:
    """The provenance of a row; what is not a JSON object stands under `meta`."""
    try:
        value = json.loads(row.get("meta") or "{}")
    except (ValueError, RecursionError):
        # Rows of others may hold anything in `meta`; show it as it is.
        value = row["meta"]
    return value if isinstance(value, dict) else {"meta": value}
