"""Content hashes, atomic writes, JSON files, and the checks on files that we wrote ourselves."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bezoar.errors import DataError
from bezoar.reading import Row as Row
from bezoar.reading import read_jsonl as read_jsonl
from bezoar.reading import read_text
from bezoar.terminal import complain

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
LARGEST_OBJECT = 2**26
"""Bytes of a file of settings; read, 64 MiB of JSON can take a gigabyte of memory."""
FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What code raises when a value that it wrote has another type or is gone."""
ADVICE = "put back a copy of it, or remove it and run again"


def failure(error: OSError) -> str:
    """One sentence about what the machine refused: the file, why, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "no space is left on the disk; free some and run the same command to go on."
    paths = (error.filename, error.filename2)
    names = [os.fsdecode(name) for name in paths if isinstance(name, (str, bytes, os.PathLike))]
    why = error.strerror or error or type(error).__name__
    place = " to ".join(names) or "the machine"
    return f"{place}: {why}; check the path, its permissions and what lies there."


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, every character kept."""
    return _CANONICAL.encode(value)


def content_hash(*parts: Any) -> str:
    """16 hex digits that name `parts` (JSON values) by their content."""
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """16 hex digits that name a file, or a folder with the names in it, by its bytes."""
    digest = hashlib.sha256()
    for file in _files(path):
        # the name too: two files that change places make another folder
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def cached_hash(path: Path) -> str:
    """`file_hash`, computed again only when a name, size or time of change in `path` is new."""
    stats = [(str(file), file.stat()) for file in _files(path)]
    changes = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    stamp = content_hash(str(path.resolve()), changes)
    cached = cache_dir() / "hashes" / stamp
    digest = cached.read_bytes().decode("ascii", "replace") if cached.is_file() else ""
    # a torn cache is no error: it is written again
    if not re.fullmatch("[0-9a-f]{16}", digest):
        digest = file_hash(path)
        atomic_write(cached, digest)
    return digest


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def cache_dir() -> Path:
    """Where unpacked models and hashes are kept: `$BEZOAR_CACHE`, else ~/.cache/bezoar."""
    try:
        return Path(os.environ.get("BEZOAR_CACHE") or Path.home() / ".cache" / "bezoar")
    except RuntimeError:
        fix = "set BEZOAR_CACHE to a folder that may be written"
        raise DataError(f"BEZOAR_CACHE: this user has no home folder; {fix}.") from None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write; it replaces `path` when the block ends without an error. Durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    # made by us and not in a private way: the process's umask says who may read
    partial.touch(exist_ok=False)
    mode = partial.stat().st_mode
    try:
        yield partial
        # a library may have put a private file in its place
        partial.chmod(mode)
        # the bytes must be on the disk before the name points to them
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_entries(path.parent)


def atomic_write(path: Path, text: str | bytes) -> None:
    """Write `path` so that a reader sees the old content or the new, never a part. Durable."""
    # half of a surrogate pair is written as an escape, which in JSON is that same half
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    with atomic_file(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` when the block ends without an error. Durable;
    after a power cut `path` is the old folder, the new one whole, or absent."""
    partial = path.parent / f".{path.name}.partial"
    old = path.parent / f".{path.name}.old"
    remove(partial)
    remove(old)
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial)
    except BaseException:
        remove(partial)
        raise
    # a folder that is not empty cannot be replaced in one step
    if path.exists() or path.is_symlink():
        path.rename(old)
    partial.rename(path)
    sync_entries(path.parent)
    remove(old)


def publish(folder: Path) -> None:
    """Let all files in `folder` be read by whom the folder itself lets in, and `sync` it."""
    may_read = folder.stat().st_mode & 0o444
    for path in folder.rglob("*"):
        # safetensors and others write files that only their owner can read
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | may_read)
    sync(folder)


def sync(path: Path) -> None:
    """Return when a file, or a folder with all in it but links, would survive a power cut."""
    if path.is_symlink():
        return
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_entries(path)
        return
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_entries(folder: Path) -> None:
    """Return when the names in `folder` (created, moved or removed) would survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do this
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link (never its target), if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, fault: object) -> None:
    """Rename a damaged file of ours, which will be made anew, and say so; `fault` is a sentence."""
    # kept, not removed: only one, so that a disk that goes on failing does not fill
    aside = path.with_name(f"{path.name}.damaged")
    remove(aside)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    what = str(fault).split("; ")[0].rstrip(".")
    complain(f"{what}; it was set aside as {aside} and is made anew.")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented for people, atomically."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines, atomically."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The JSON value in `path`. DataError names the file when it is absent or broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise DataError(f"{where}: not valid JSON ({error.msg}); mend the file.") from None
    # a number of thousands of digits, brackets in brackets
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read ({error}); mend the file.") from None


def read_object(path: Path) -> Row:
    """The JSON object in `path`. DataError if absent, broken, too large for settings, no object."""
    if path.is_file() and (size := path.stat().st_size) > LARGEST_OBJECT:
        what = f"{size} bytes, and at most {LARGEST_OBJECT} are read"
        raise DataError(f"{path}: {what}; fetch the file again.")
    value = read_json(path)
    if not isinstance(value, dict):
        what = f"the file holds a JSON {type(value).__name__}, not an object"
        raise DataError(f"{path}: {what}; fetch or write it again.")
    return value


# files of our own, read back: a hand or a torn disk may have changed them


def read_own(path: Path, **types: Any) -> Row:
    """The JSON object in `path`; the values named in `types` have these types, None if absent.

    DataError names the file and what is wrong in it.
    """
    from pydantic import ValidationError

    row = read_object(path)
    for name, kind in types.items():
        try:
            row[name] = _adapter(kind).validate_python(row.get(name))
        except ValidationError as error:
            fault = error.errors()[0]
            what = f"{'.'.join([name, *map(str, fault['loc'])])}: {fault['msg']}"
            raise DataError(f"{path}: not as bezoar wrote it ({what}); {ADVICE}.") from None
    return row


@cache  # making one takes longer than reading a file with it
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Use values from `folder` that `read_own` has not checked. DataError if one is not ours."""
    try:
        yield
    except FAULTS as error:
        what = f"a value in it is not as bezoar wrote it ({type(error).__name__}: {error})"
        fix = "put back a copy, or run again what made it"
        raise DataError(f"{folder}: {what}; {fix}.") from error


def write_checked(path: Path, value: Row) -> None:
    """Write what can be made anew, with a checksum. Durable on return."""
    # the sum is over what a reader will get: tuples are lists there, keys are texts
    plain = json.loads(json.dumps(value))
    write_json(path, {**plain, "sum": content_hash(plain)})


def read_checked(path: Path) -> Row:
    """What `write_checked` wrote. DataError when it is absent or damaged."""
    value = read_json(path)
    row = value if isinstance(value, dict) else {}
    if row.pop("sum", None) != content_hash(row):
        raise DataError(f"{path}: its content is not what was written; {ADVICE}.")
    return row


def read_intact(path: Path) -> Row | None:
    """What `write_checked` wrote; None if absent, or damaged and therefore set aside."""
    if not path.exists():
        return None
    try:
        return read_checked(path)
    except DataError as error:
        set_aside(path, error)
        return None
