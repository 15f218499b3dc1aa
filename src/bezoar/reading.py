"""Files from outside: ordinary ones only, UTF-8 text within limits, strict JSON Lines."""

import gzip
import json
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field

from bezoar import strict_json
from bezoar.bounds import Count, Positive
from bezoar.errors import DataError, brief

Row = dict[str, Any]
_MOST_MB = 1 << 24  # a machine's memory
_SMALL_BYTES = 1 << 22  # less is harmless, however it is packed
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "a UTF-8 byte order mark"}


class TooMuchError(DataError):
    """A limit was passed."""


@dataclass(frozen=True)
class Limits:
    """The most that is read of one file."""

    rows: Count = 1_000_000
    """Rows, or lines of a text file."""
    row_mb: Annotated[float, Field(gt=0, le=_MOST_MB)] = 32.0
    """Megabytes of one row."""
    file_gb: Positive = 4.0
    """Gigabytes of the whole file when unpacked."""
    ratio: Positive = 100.0
    """Unpacked size over packed size, for files that unpack to more than 4 MB."""

    def check(self, place: str, size: int, packed: int) -> None:
        """TooMuchError if `size` bytes, unpacked up to `place` from `packed`, are too many."""
        if size > self.file_gb * 2**30:
            most, key = f"more than {self.file_gb:g} GB; split it", "file_gb"
        elif size > max(_SMALL_BYTES, self.ratio * packed):
            most, key = f"more than {self.ratio:g} times its size; write it anew", "ratio"
        else:
            return
        raise TooMuchError(f"{place}: the file unpacks to {most}, or raise limits.{key}.")


LIMITS = Limits()
_ANY_NUMBER = Limits(rows=1 << 62)


def user_path(text: str) -> Path:
    """A path as a person writes it: `~` is the home folder. DataError for what can be no path."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        fix = "write the path out, or ./~name for a name with ~"
        raise DataError(f"{brief(text)}: there is no such home folder; {fix}.") from None
    if "\0" in text or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.parts):
        why = "more than 255 bytes, or NUL in it"
        raise DataError(f"{brief(text)!r}: no name of a file or folder ({why}); check the path.")
    return path


def check_file(path: Path) -> None:
    """DataError unless `path` is an ordinary file that holds the data itself."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: this is a folder; name a file in it.")
        if not stat.S_ISREG(mode):
            what = "no ordinary file but a device or pipe; write its content to one"
            raise DataError(f"{path}: this is {what}.")
        with path.open("rb") as stream:
            head = stream.read(64)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; check the path.") from None
    except (OSError, ValueError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', error)})"
        raise DataError(f"{path}: {what}; check the path and its permissions.") from None
    if head.startswith(b"version https://git-lfs"):
        kind = "not a Parquet file" if path.suffix == ".parquet" else "not the data"
        fix = "run `git lfs pull` where it came from"
        raise DataError(f"{path}:1: this is a Git LFS pointer, {kind}; {fix}.")


@dataclass
class Stream:
    """The bytes of a file within its limits; `.gz` is unpacked."""

    path: Path
    stream: IO[bytes]
    limits: Limits
    size: int = 0
    line: int = 1

    def read(self, size: int) -> bytes:
        return self._within(self.stream.read(size))

    def readline(self, size: int) -> bytes:
        """A line with its end, or the first `size` bytes of a longer one."""
        return self._within(self.stream.readline(size))

    def _within(self, block: bytes) -> bytes:
        # checked block by block: a bomb must not be unpacked to its end before it is refused
        self.size += len(block)
        if self.size > _SMALL_BYTES:
            packed_stream = getattr(self.stream, "fileobj", None)  # what a GzipFile unpacks
            packed = packed_stream.tell() if packed_stream else self.size
            self.limits.check(f"{self.path}:{self.line}", self.size, packed)
        self.line += block.count(b"\n")
        return block


@contextmanager
def open_bytes(path: Path, limits: Limits = LIMITS, *, marked: bool = False) -> Iterator[Stream]:
    """Open a text file for its bytes. DataError for what cannot be plain UTF-8 text, unless it may
    be `marked` as another encoding."""
    check_file(path)
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            head: bytes = stream.read(64)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file.") from None
    # a mark would stand in the first key of the first row, where nobody sees it
    for mark, name in _BOMS.items():
        if head.startswith(mark) and not marked:
            fix = "save it as UTF-8 without a byte order mark"
            raise DataError(f"{path}:1: the file starts with {name}; {fix}.")
    with opener(path, "rb") as stream:
        yield Stream(path, stream, limits)


def read_lines(
    path: Path, limits: Limits = _ANY_NUMBER, *, errors: str = "strict"
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); only "\n" ends a line, and blank lines
    count. DataError names file and line; `errors` is that of `bytes.decode`."""
    number, most = 0, int(limits.row_mb * 2**20)
    with open_bytes(path, limits) as stream:
        try:
            # one byte more than is allowed tells a line that is too long from one that just fits
            while line := stream.readline(most + 1):
                number += 1
                if len(line) > most:
                    what, key = f"the line is longer than {limits.row_mb:g} MB; split it", "row_mb"
                elif number > limits.rows:
                    what = f"the file holds more than {limits.rows:,} lines; take fewer with limit"
                    key = "rows"
                else:
                    yield number, line.decode("utf-8", errors).rstrip("\r\n")
                    continue
                raise TooMuchError(f"{path}:{number}: {what}, or raise limits.{key}.")
        except UnicodeDecodeError as error:
            why = f"not UTF-8 text ({error.reason}); save the file as UTF-8"
            raise DataError(f"{path}:{number}: {why}.") from None
        except (OSError, EOFError, zlib.error) as error:
            why = f"cannot be read to its end ({error}); fetch the file again"
            raise DataError(f"{path}:{number + 1}: {why}.") from None


def read_text(path: Path, most_bytes: int = 1 << 28) -> str:
    """A whole UTF-8 text file, lines ended by "\n". TooMuchError above `most_bytes`."""
    limits = Limits(1 << 62, row_mb=most_bytes / 2**20, file_gb=most_bytes / 2**30)
    try:
        return "".join(line + "\n" for _, line in read_lines(path, limits))
    except TooMuchError:
        what = f"the file holds more than {most_bytes >> 20} MB, too much for what it is"
        raise TooMuchError(f"{path}: {what}; check the path.") from None


def read_jsonl(
    path: Path, limits: Limits = _ANY_NUMBER, *, broken: list[int] | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, object) of a JSON Lines file; blank lines are skipped.

    U+2028 inside a string does not cut a row. DataError names file and line, unless `broken` is
    given: then the numbers of unreadable lines are added to it, and NaN is read.
    """
    parse = strict_json.parse if broken is None else _parse_leniently
    errors = "strict" if broken is None else "surrogateescape"
    # a report must show what is left of a damaged run; everything else refuses the first bad line
    for number, line in read_lines(path, limits, errors=errors):
        if not line.strip():
            continue
        try:
            value = parse(line)
            if not isinstance(value, dict):
                kind = f"a JSON {type(value).__name__}, not an object"
                raise ValueError(f"the row is {kind}; write one object a line")
        except (ValueError, RecursionError) as error:
            if broken is None:
                raise DataError(f"{path}:{number}: {error}.") from None
            broken.append(number)
        else:
            yield number, value


def _parse_leniently(text: str) -> Any:
    # read as bytes, so that what is no UTF-8 is an error of this line only
    return json.loads(text.encode("utf-8", "surrogateescape"))
