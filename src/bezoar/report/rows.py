"""A few rows of a set and the lengths of many, in one pass over its Parquet file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.errors import DataError
from bezoar.io import Row

MAX_READ = 20_000


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            num = file.metadata.num_rows
            wanted = spaced(min(num, MAX_READ), num_samples)
            samples, lengths = [], []
            for index, row in enumerate(_read(file)):
                lengths.append(num_words(row))
                if index in wanted:
                    samples.append(row)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); run its stage again."
        ) from None
    return RowSet(num, samples, lengths)


def _read(file: Any) -> Iterator[Row]:
    left = MAX_READ
    for batch in file.iter_batches(batch_size=1000):
        yield from batch.to_pylist()[:left]
        left -= batch.num_rows
        if left <= 0:
            return


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
