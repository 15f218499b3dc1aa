"""Content hashes, atomic writes, and strict readers and writers of rows."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar import parquet
from bezoar.errors import DataError
from bezoar.reading import Limits
from bezoar.reading import Row as Row
from bezoar.reading import read_jsonl as read_jsonl
from bezoar.reading import read_lines as read_lines
from bezoar.reading import read_text as read_text

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
LARGEST_OBJECT = 2**26
"""Bytes of a file of settings; read, 64 MiB of JSON can take a gigabyte of memory."""


def failure(error: OSError) -> str:
    """One sentence about what the machine refused: the file, why, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "no space is left on the disk; free some and run the same command to go on."
    names = [
        os.fsdecode(name)
        for name in (error.filename, error.filename2)
        if isinstance(name, (str, bytes, os.PathLike))
    ]
    place = " to ".join(names) or "the machine"
    return (
        f"{place}: {error.strerror or error or type(error).__name__}; check the path, its"
        " permissions and what lies there."
    )


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, every character kept."""
    return _CANONICAL.encode(value)


def content_hash(*parts: Any) -> str:
    """16 hex digits that name `parts` (JSON values) by their content."""
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """16 hex digits that name a file, or a folder with the names in it, by its bytes."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def cache_dir() -> Path:
    """Where unpacked models and hashes are kept: `$BEZOAR_CACHE`, else ~/.cache/bezoar. DataError
    for a user without a home."""
    try:
        return Path(os.environ.get("BEZOAR_CACHE") or Path.home() / ".cache" / "bezoar")
    except RuntimeError:
        raise DataError(
            "BEZOAR_CACHE: this user has no home folder; set BEZOAR_CACHE to a folder that may be"
            " written."
        ) from None


def cached_hash(path: Path) -> str:
    """`file_hash`, computed again only when a name, a size or a time of change in `path` is new."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stamp = content_hash(
        str(path.resolve()), [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    )
    note = cache_dir() / "hashes" / stamp
    found = note.read_bytes().decode("ascii", "replace") if note.is_file() else ""
    if not re.fullmatch("[0-9a-f]{16}", found):
        found = file_hash(path)
        atomic_write(note, found)
    return found


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield where to write what takes the place of `path` when the block ends without an error;
    durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        sync(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_entries(path.parent)


def atomic_write(path: Path, text: str | bytes) -> None:
    """Write `path` so that a reader sees the old content or the new, never a part; durable on
    return."""
    # half of a surrogate pair is written as an escape, which in JSON is that same half
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    with atomic_file(path) as work:
        work.write_bytes(data)


def sync(path: Path) -> None:
    """Return when a file, or a folder with all that is in it, would outlive a power cut; links are
    not followed."""
    if path.is_symlink():
        return
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_entries(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_entries(folder: Path) -> None:
    """Return when the names in `folder` (what was made, moved or removed there) would outlive a
    power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such order
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Take a file, a folder with all in it, or a link (never what it points to) away; nothing
    happens when none is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an error,
    and is removed when it does not.

    Durable on return; after a power cut `path` is the old folder, the new one whole, or absent.
    """
    work = path.parent / f".{path.name}.partial"
    old = path.parent / f".{path.name}.old"
    for left in (work, old):
        remove(left)
    work.mkdir(parents=True)
    try:
        yield work
        sync(work)
    except BaseException:
        remove(work)
        raise
    if path.exists() or path.is_symlink():
        path.rename(old)
    work.rename(path)
    sync_entries(path.parent)
    remove(old)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented for people, atomically."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`. DataError names the file when it is absent or broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); mend the file."
        ) from None
    # a number of thousands of digits, brackets in brackets
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read ({error}); mend the file.") from None


def read_object(path: Path) -> Row:
    """The JSON object in `path`. DataError names the file when it is absent, broken, no object, or
    larger than any settings are."""
    if path.is_file() and path.stat().st_size > LARGEST_OBJECT:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes, and at most {LARGEST_OBJECT} are read; fetch the"
            " file again."
        )
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: the file holds a JSON {type(value).__name__}, not an object; fetch or write"
            " it again."
        )
    return value


def set_aside(path: Path, fault: object) -> None:
    """Rename what was made here and is damaged, and say so: nothing is lost, and it is made anew.
    `fault` is a sentence."""
    from bezoar.terminal import complain

    aside = path.with_name(f"{path.name}.damaged")
    remove(aside)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    complain(
        f"{str(fault).split('; ')[0].rstrip('.')}; it was set aside as {aside} and is made anew."
    )


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines, atomically."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[Row]) -> None:
    """Write rows as Parquet, atomically; the columns are those of the rows, in the order of first
    sight."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    with atomic_file(path) as work:
        # what a reader that streams holds at once
        pq.write_table(table, work, row_group_size=2**14)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file of our own, of which a part is in memory at a time."""
    return (row for _, row in parquet.read_rows(path, Limits(1 << 62, 1 << 20, 1 << 30, 1 << 62)))


def num_rows(path: Path) -> int:
    """How many rows a Parquet file has."""
    with parquet.open_parquet(path) as file:
        return int(file.metadata.num_rows)
