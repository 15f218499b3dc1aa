"""Many rows made into checked examples, by several processes, each chunk a file of the cache.

A chunk's file is named by the rows in it and by all that turned them into tokens, so it is made
once and serves every run. Examples are read from the mapped files when they are used: memory holds
only the chunks under way, however many rows there are. Imports no torch.
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
from itertools import accumulate, chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, overload

import bezoar
from bezoar.chat.types import AnyRow, Dropped, Filtered
from bezoar.io import atomic_write, cache_dir, content_hash, set_aside
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.progress import Progress
from bezoar.stage import Rows
from bezoar.train.label_check import Example

CHUNK = 2048
"""Rows of a file; a set of no more is checked in this process and kept in memory."""
_CHECKSUM = 8
"""Bytes at the end of a file that tell whether it is whole."""
KEPT_S = 30 * 24 * 3600
"""Files that were not used for so long are removed."""
CheckRows = Callable[[Sequence[Any]], Filtered[Example]]


def prepare(
    rows: Rows, check: CheckRows, *, key: str, progress: Progress, chunk: int = CHUNK
) -> tuple[Sequence[Example], list[Dropped]]:
    """`check(rows)`: the same examples in the same order, the same rows dropped, the same error.

    `key` names all that `check` depends on beside the rows and this package's code; a file holds
    `chunk` rows.
    """
    # small sets are checked here: starting processes would take longer
    if len(rows) <= chunk:
        filtered = check(list(rows))
        return filtered.rows, filtered.dropped
    folder = cache_dir() / "prepared" / content_hash(key, _code())
    with progress.bar("rows to tokens", len(rows)) as advance:
        files = []
        for file, size in _in_processes(_chunks(rows, chunk), check, folder):
            files.append(file)
            advance(size)
    _forget(folder.parent)
    examples = Prepared(files)
    return examples, examples.dropped


def identity(examples: Sequence[Example]) -> str:
    """16 hex digits that name examples by content."""
    if isinstance(examples, Prepared):
        return examples.identity
    values = []
    for example in examples:
        group = example.group
        completions = [(c.tokens, c.trained) for c in group.completions]
        values.append((example.id, group.prompt, completions, group.labels))
    return content_hash(values)


def num_input_tokens(examples: Sequence[Example]) -> list[int]:
    """The tokens of each example that the model reads."""
    if isinstance(examples, Prepared):
        return [
            size
            for chunk in examples.chunks
            for size in chunk.column("num_input_tokens").to_pylist()
        ]
    return [example.group.num_input_tokens for example in examples]


def num_cut(examples: Sequence[Example]) -> int:
    """How many examples lost their end."""
    if isinstance(examples, Prepared):
        return sum(chunk.column("cut").true_count for chunk in examples.chunks)
    return sum(example.cut for example in examples)


class Prepared(Sequence[Example]):
    """The examples in the files of chunks, in order, each read when it is used."""

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
        start = self._ends[number - 1] if number else 0
        return _example(self.chunks[number].slice(index - start, 1))


def _chunks(rows: Iterable[AnyRow], size: int) -> Iterator[list[AnyRow]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk


def _in_processes(
    chunks: Iterator[list[AnyRow]], check: CheckRows, folder: Path
) -> Iterator[tuple[Path, int]]:
    """The file and the number of rows of each chunk, in order."""
    has_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    pool = ProcessPoolExecutor(
        count, get_context(start_method()), initializer=_begin, initargs=(check, folder)
    )
    try:
        # one more than there are processes: enough to keep all busy, without reading all rows
        first = islice(chunks, count + 1)
        waiting = deque((pool.submit(_make, chunk), len(chunk)) for chunk in first)
        while waiting:
            future, size = waiting.popleft()
            yield future.result(), size
            waiting.extend((pool.submit(_make, chunk), len(chunk)) for chunk in islice(chunks, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def start_method() -> Literal["fork", "spawn"]:
    """How processes begin: a forked one has the tokenizer already; where forking is not safe, as
    once CUDA runs in this process, it is sent to a new one."""
    torch = sys.modules.get("torch")
    on_cuda = torch is not None and torch.cuda.is_initialized()
    return "fork" if sys.platform == "linux" and not on_cuda else "spawn"


_shared: list[Any] = []
"""In a process of the pool: the check and the folder."""


def _begin(check: CheckRows, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _shared[:] = [check, folder]


def _make(rows: list[AnyRow]) -> Path:
    """The chunk's file, written where it is missing."""
    check, folder = _shared
    file: Path = folder / f"{content_hash([row.to_row() for row in rows])}.arrow"
    # 1) a damaged file would train other tokens: check it before it serves this run
    if file.is_file() and not _whole(file):
        set_aside(file, f"{file}: its content is not what was written")
    # 2) used or made now; the time of the last use decides when it is removed
    if file.is_file():
        os.utime(file)
    else:
        atomic_write(file, _packed(check(rows)))
    return file


def _whole(file: Path) -> bool:
    data = file.read_bytes()
    return data[-_CHECKSUM:] == _sum(data[:-_CHECKSUM])


def _sum(data: bytes) -> bytes:
    return f"{zlib.crc32(data):08x}".encode()


def _packed(filtered: Filtered[Example]) -> bytes:
    import pyarrow as pa

    groups = [example.group for example in filtered.rows]
    tokens = [[c.tokens for c in group.completions] for group in groups]
    # 16 bits hold the tokens of most vocabularies, at half the size of the cache
    trained = [[c.trained for c in group.completions] for group in groups]
    prompts = [group.prompt for group in groups]
    all_parts = [*prompts, *chain.from_iterable(tokens)]
    largest = max((max(part, default=0) for part in all_parts), default=0)
    token = pa.uint16() if largest < 2**16 else pa.int32()
    columns = {
        "id": pa.array([example.id for example in filtered.rows], pa.string()),
        "num_input_tokens": pa.array([group.num_input_tokens for group in groups], pa.int32()),
        "cut": pa.array([example.cut for example in filtered.rows], pa.bool_()),
        "prompt": pa.array(prompts, pa.list_(token)),
        "tokens": pa.array(tokens, pa.list_(pa.list_(token))),
        "labels": pa.array([group.labels for group in groups], pa.list_(pa.float64())),
        "trained": pa.array(trained, pa.list_(pa.list_(pa.bool_()))),
    }
    batch = pa.record_batch(columns).replace_schema_metadata(
        {"dropped": json.dumps([asdict(d) for d in filtered.dropped])}
    )
    # Arrow's file format can be mapped: a row is read without loading the file
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = bytes(sink.getvalue())
    return data + _sum(data)


def _mapped(file: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped:
        inner = pa.BufferReader(mapped.read_buffer(mapped.size() - _CHECKSUM))
        return pa.ipc.open_file(inner).get_batch(0)  # its buffers keep the mapping alive


def _example(row: Any) -> Example:
    """The example in a batch of one row."""

    # through numpy: as_py of nested lists is slow
    def to_list(values: Any) -> list[Any]:
        array: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
        return array

    tokens, trained = (
        [to_list(part.values) for part in row.column(name).flatten()]
        for name in ("tokens", "trained")
    )
    completions = [Completion(*pair) for pair in zip(tokens, trained, strict=True)]
    prompt, labels = (to_list(row.column(name).flatten()) for name in ("prompt", "labels"))
    group = PromptGroup(prompt, completions, tuple(labels))
    return Example(row.column("id")[0].as_py(), group, row.column("cut")[0].as_py())


def _code() -> str:
    """The hash of this package's code: rows are made into tokens anew when any of it changes."""
    files = sorted(Path(bezoar.__file__).parent.rglob("*.py"))
    return content_hash([file.read_text(encoding="utf-8") for file in files])


def _forget(folder: Path) -> None:
    for file in folder.glob("*/*.arrow*"):
        if time.time() - file.stat().st_mtime > KEPT_S:
            file.unlink(missing_ok=True)
