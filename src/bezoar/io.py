"""Content hashes, atomic writes, and strict readers and writers of rows."""

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bezoar import strict_json
from bezoar.errors import DataError, brief

Row = dict[str, Any]
LARGEST_OBJECT = 2**26
"""Bytes of a file of settings; read, 64 MiB of JSON can take a gigabyte of memory."""
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "a UTF-8 byte order mark"}


def failure(error: OSError) -> str:
    """One sentence about what the machine refused: the file, why, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "no space is left on the disk; free some and run the same command to go on."
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    place = " to ".join(names) or "the machine"
    return f"{place}: {error.strerror or error or type(error).__name__}; check the path, its permissions and what lies there."


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, every character kept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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
    """Where unpacked models and hashes are kept: `$BEZOAR_CACHE`, else ~/.cache/bezoar."""
    return Path(os.environ.get("BEZOAR_CACHE") or Path.home() / ".cache" / "bezoar")


def cached_hash(path: Path) -> str:
    """`file_hash`, computed again only when a name, a size or a time of change in `path` is new."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stamp = content_hash(str(path.resolve()), [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files])
    note = cache_dir() / "hashes" / stamp
    found = note.read_bytes().decode("ascii", "replace") if note.is_file() else ""
    if not re.fullmatch("[0-9a-f]{16}", found):
        found = file_hash(path)
        atomic_write(note, found)
    return found


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield where to write what takes the place of `path` when the block ends without an error; durable on return."""
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
    """Write `path` so that a reader sees the old content or the new, never a part; durable on return."""
    # half of a surrogate pair is written as an escape, which in JSON is that same half
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    with atomic_file(path) as work:
        work.write_bytes(data)


def sync(path: Path) -> None:
    """Return when a file, or a folder with all that is in it, would outlive a power cut; links are not followed."""
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
    """Return when the names in `folder` (what was made, moved or removed there) would outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such order
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Take a file, a folder with all in it, or a link (never what it points to) away; nothing happens when none is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an error, and is removed when it does not.

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
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); mend the file.") from None
<<<<<<< HEAD
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise DataError(f"{path}: not JSON that can be read ({error}); mend the file.") from None


def read_object(path: Path) -> Row:
    """The JSON object in `path`. DataError names the file when it is absent, broken, no object, or larger than any settings are."""
    if path.is_file() and path.stat().st_size > LARGEST_OBJECT:
        raise DataError(f"{path}: {path.stat().st_size} bytes, and at most {LARGEST_OBJECT} are read; fetch the file again.")
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: the file holds a JSON {type(value).__name__}, not an object; fetch or write it again.")
    return value


def set_aside(path: Path, fault: object) -> None:
    """Rename what was made here and is damaged, and say so: nothing is lost, and it is made anew. `fault` is a sentence."""
    from bezoar.terminal import complain

    aside = path.with_name(f"{path.name}.damaged")
    remove(aside)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    complain(f"{str(fault).split('; ')[0].rstrip('.')}; it was set aside as {aside} and is made anew.")
=======
    except (RecursionError, ValueError):
        raise DataError(f"{path}: not valid JSON (nested too deeply or a number too long); mend the file.") from None


@dataclass(frozen=True)
class Limits:
    """The most that is read: `rows` (lines), the size of one row, and of a file when it is unpacked."""

    rows: int = 1_000_000
    row_mb: float = 32.0
    file_gb: float = 4.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.row_mb <= 0 or self.file_gb <= 0:
            raise ValueError("rows, row_mb and file_gb must be above 0; change the value")


LIMITS = Limits()


def user_path(text: str) -> Path:
    """A path as a person writes it: `~` is the home folder. DataError for what can be no path."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"{brief(text)}: there is no such home folder; write the path out, or ./~name for a name with ~.") from None
    if "\0" in text or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.parts):
        raise DataError(f"{brief(text)!r}: no name of a file or folder (more than 255 bytes, or NUL in it); check the path.")
    return path


class _TooMuchError(DataError):
    """A limit was passed."""


def check_file(path: Path) -> None:
    """DataError unless `path` is an ordinary file that holds the data itself."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder; name a file in it" if stat.S_ISDIR(mode) else "no ordinary file but a device or pipe; write its content to one"
            raise DataError(f"{path}: this is {what}.")
        with path.open("rb") as stream:
            head = stream.read(64)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path and its permissions.") from None
    if head.startswith(b"version https://git-lfs"):
        kind = "not a Parquet file" if path.suffix == ".parquet" else "not the data"
        raise DataError(f"{path}:1: this is a Git LFS pointer, {kind}; run `git lfs pull` where it came from.")
>>>>>>> b914d92 (Recipes are read as YAML 1.2, bounded before anchors are written out; rows of JSON arrays and Parquet are read in bounded memory, with limits as recipe keys)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of text for its bytes (`.gz` is unpacked); DataError for what cannot be plain UTF-8 text."""
    check_file(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            head: bytes = stream.read(64)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file.") from None
    for mark, name in _BOMS.items():
        if head.startswith(mark):
            raise DataError(f"{path}:1: the file starts with {name}; save it as UTF-8 without a byte order mark.")
    with opener(path, "rb") as stream:
        yield stream  # type: ignore[misc]


def read_lines(path: Path, limits: Limits = LIMITS) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); lines end at "\n" alone. DataError names file and line."""
    number, most, left = 0, int(limits.row_mb * 2**20), int(limits.file_gb * 2**30)
    with open_bytes(path) as stream:
        try:
            while line := stream.readline(most + 1):
                number, left = number + 1, left - len(line)
                if len(line) > most:
                    raise _TooMuchError(f"{path}:{number}: the line is longer than {limits.row_mb:g} MB; split it, or raise limits.row_mb.")
                if left < 0:
                    raise _TooMuchError(f"{path}:{number}: the file unpacks to more than {limits.file_gb:g} GB; split it, or raise limits.file_gb.")
                yield number, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8.") from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}:{number + 1}: cannot be read to its end ({error}); fetch the file again.") from None


def read_text(path: Path, most_bytes: int = 1 << 28) -> str:
    """The whole of a UTF-8 text file, its lines ended by "\n". DataError for one of more than `most_bytes`."""
    try:
        return "".join(line + "\n" for _, line in read_lines(path, Limits(row_mb=most_bytes / 2**20, file_gb=most_bytes / 2**30)))
    except _TooMuchError:
        raise DataError(f"{path}: the file holds more than {most_bytes >> 20} MB, too much for what it is; check the path.") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, object) of a JSON Lines file; blank lines are passed over.

    U+2028 inside a string does not cut a row. DataError names file and line.
    """
    for number, line in read_lines(path):
        if line.strip():
            try:
                value = strict_json.parse(line)
            except strict_json.NotJSONError as error:
                raise DataError(f"{path}:{number}: {error}.") from None
            if not isinstance(value, dict):
                raise DataError(f"{path}:{number}: the row is a JSON {type(value).__name__}, not an object; write one object a line.")
            yield number, value


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines, atomically."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[Row]) -> None:
    """Write rows as Parquet, atomically; the columns are those of the rows, in the order of first sight."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    with atomic_file(path) as work:
        pq.write_table(table, work, row_group_size=2**14)  # what a reader that streams holds at once


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file of our own, of which a part is in memory at a time."""
    from bezoar.parquet import read_rows

    return (row for _, row in read_rows(path, Limits(1 << 62, 1 << 20, 1 << 30)))


def num_rows(path: Path) -> int:
    """How many rows a Parquet file has."""
    from bezoar.parquet import open_parquet

    with open_parquet(path) as file:
        return int(file.metadata.num_rows)
