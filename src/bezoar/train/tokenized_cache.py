"""Many rows made into proved items: by several processes, a chunk at a time, each chunk in a file
of the cache. Imports no torch.

A chunk's file is named by the rows in it and by all that turned them into tokens, so it is made
once and serves every run. Items are read from the mapped files when they are asked for: memory
holds the chunks under way, however many rows there are.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import accumulate, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, overload

import bezoar
from bezoar.chat.types import AnyRow, Dropped, Filtered
from bezoar.io import atomic_write, cache_dir, content_hash, set_aside
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.progress import Progress
from bezoar.stage import Rows
from bezoar.train.label_check import Example

CHUNK = 2048
"""Rows of a file; a set that has no more is proved here and now, and kept in memory."""
_SUM = 8
"""Bytes at the end of a file that tell whether it is whole."""
KEPT_S = 30 * 24 * 3600
"""Files that were not used for so long are removed."""


Prove = Callable[[Sequence[Any]], Filtered[Example]]


def prepare(
    rows: Rows, prove: Prove, *, key: str, progress: Progress, chunk: int = CHUNK
) -> tuple[Sequence[Example], list[Dropped]]:
    """`prove(rows)`: the same items in the same order and the same rows dropped; the first row that
    is refused raises.

    `key` names all that `prove` depends on beside the rows and this package's code; a file holds
    `chunk` rows.
    """
    if len(rows) <= chunk:
        sifted = prove(list(rows))
        return sifted.rows, sifted.dropped
    folder = cache_dir() / "prepared" / content_hash(key, _code())
    with progress.bar("rows to tokens", len(rows)) as advance:
        files = []
        for file, size in _in_processes(_chunks(rows, chunk), prove, folder):
            files.append(file)
            advance(size)
    _forget(folder.parent)
    items = Prepared(files)
    return items, items.dropped


def identity(items: Sequence[Example]) -> str:
    """16 hex digits that name items by content."""
    if isinstance(items, Prepared):
        return items.identity
    return content_hash(
        [
            (
                i.id,
                i.group.prompt,
                [(b.tokens, b.trained) for b in i.group.completions],
                i.group.labels,
            )
            for i in items
        ]
    )


def num_input_tokens(items: Sequence[Example]) -> list[int]:
    """The tokens that each item feeds to the model."""
    if isinstance(items, Prepared):
        return [size for chunk in items.chunks for size in chunk.column("fed").to_pylist()]
    return [item.group.num_input_tokens for item in items]


def num_cut(items: Sequence[Example]) -> int:
    """How many items lost their end."""
    return (
        sum(chunk.column("cut").true_count for chunk in items.chunks)
        if isinstance(items, Prepared)
        else sum(item.cut for item in items)
    )


class Prepared(Sequence[Example]):
    """The items of the files of chunks, in order, read when they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.chunks = [_mapped(file) for file in files]
        self._ends = list(accumulate(chunk.num_rows for chunk in self.chunks))
        self.identity = content_hash([file.stem for file in files])
        self.dropped = [
            Dropped(**d)
            for chunk in self.chunks
            for d in json.loads(chunk.schema.metadata[b"dropped"])
        ]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect_right(self._ends, index)
        return _item(
            self.chunks[number].slice(index - (self._ends[number - 1] if number else 0), 1)
        )


def _chunks(rows: Iterable[AnyRow], size: int) -> Iterator[list[AnyRow]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk


def _in_processes(
    chunks: Iterator[list[AnyRow]], prove: Prove, folder: Path
) -> Iterator[tuple[Path, int]]:
    """The file and the number of rows of each chunk, in order; a few chunks are under way at any
    time."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # a forked process has the tokenizer already; where forking is not safe, everything is sent to
    # it
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(prove, folder))
    try:
        waiting = deque(
            (pool.submit(_make, chunk), len(chunk)) for chunk in islice(chunks, count + 1)
        )
        while waiting:
            future, size = waiting.popleft()
            yield future.result(), size
            waiting.extend((pool.submit(_make, chunk), len(chunk)) for chunk in islice(chunks, 1))
    finally:
        pool.shutdown(cancel_futures=True)


_given: list[Any] = []
"""What a process of the pool works with."""


def _begin(prove: Prove, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _given[:] = [prove, folder]


def _make(rows: list[AnyRow]) -> Path:
    """The chunk's file, written where it is missing."""
    prove, folder = _given
    file: Path = folder / f"{content_hash([row.to_row() for row in rows])}.arrow"
    if file.is_file() and not _whole(file):
        set_aside(file, f"{file}: its content is not what was written")
    if file.is_file():
        os.utime(file)
    else:
        atomic_write(file, _packed(prove(rows)))
    return file


def _whole(file: Path) -> bool:
    data = file.read_bytes()
    return data[-_SUM:] == _sum(data[:-_SUM])


def _sum(data: bytes) -> bytes:
    return f"{zlib.crc32(data):08x}".encode()


def _packed(sifted: Filtered[Example]) -> bytes:
    import pyarrow as pa

    groups = [item.group for item in sifted.rows]
    tokens = [[b.tokens for b in group.completions] for group in groups]
    largest = max(
        (
            max(part, default=0)
            for group, parts in zip(groups, tokens, strict=True)
            for part in (group.prompt, *parts)
        ),
        default=0,
    )
    token = pa.uint16() if largest < 2**16 else pa.int32()
    columns = {
        "id": pa.array([item.id for item in sifted.rows], pa.string()),
        "fed": pa.array([group.num_input_tokens for group in groups], pa.int32()),
        "cut": pa.array([item.cut for item in sifted.rows], pa.bool_()),
        "trunk": pa.array([group.prompt for group in groups], pa.list_(token)),
        "tokens": pa.array(tokens, pa.list_(pa.list_(token))),
        "facts": pa.array([group.labels for group in groups], pa.list_(pa.float64())),
        "trained": pa.array(
            [[b.trained for b in group.completions] for group in groups],
            pa.list_(pa.list_(pa.bool_())),
        ),
    }
    batch = pa.record_batch(columns).replace_schema_metadata(
        {"dropped": json.dumps([asdict(d) for d in sifted.dropped])}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = bytes(sink.getvalue())
    return data + _sum(data)


def _mapped(file: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped:
        inner = pa.BufferReader(mapped.read_buffer(mapped.size() - _SUM))
        return pa.ipc.open_file(inner).get_batch(0)  # its buffers keep the mapping alive


def _item(row: Any) -> Example:
    """The item in a batch of one row."""

    def batch(values: Any) -> list[Any]:
        return values.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]

    tokens, trained = (
        [batch(part.values) for part in row.column(name).flatten()]
        for name in ("tokens", "trained")
    )
    completions = [Completion(one, two) for one, two in zip(tokens, trained, strict=True)]
    prompt, labels = (batch(row.column(name).flatten()) for name in ("trunk", "facts"))
    return Example(
        row.column("id")[0].as_py(),
        PromptGroup(prompt, completions, tuple(labels)),
        row.column("cut")[0].as_py(),
    )


def _code() -> str:
    """The hash of this package's code: rows are made into tokens anew when any of it changes."""
    files = sorted(Path(bezoar.__file__).parent.rglob("*.py"))
    return content_hash([file.read_text(encoding="utf-8") for file in files])


def _forget(folder: Path) -> None:
    for file in folder.glob("*/*.arrow*"):
        if time.time() - file.stat().st_mtime > KEPT_S:
            file.unlink(missing_ok=True)
