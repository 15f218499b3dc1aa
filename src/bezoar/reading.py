"""Files from outside: ordinary ones alone, UTF-8 text line by line within limits, strict JSON
Lines. Errors name file and line."""

import gzip
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bezoar import strict_json
from bezoar.errors import DataError, brief

Row = dict[str, Any]
_MOST_MB = 1 << 24
_SMALL_BYTES = 1 << 22  # less is harmless, however it is packed
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "a UTF-8 byte order mark"}


class TooMuchError(DataError):
    """A limit was passed."""


@dataclass(frozen=True)
class Limits:
    """The most that is read of a file: `rows` (lines), the size of one row, that of all when
    unpacked, and how many times the packed size that is (of files that unpack to more than 4
    MB)."""

    rows: int = 1_000_000
    row_mb: float = 32.0
    file_gb: float = 4.0
    ratio: float = 100.0

    def __post_init__(self) -> None:
        if min(self.rows, self.row_mb, self.file_gb, self.ratio) <= 0:
            raise ValueError("rows, row_mb, file_gb and ratio must be above 0; change the value")
        if self.row_mb > _MOST_MB:
            raise ValueError(
                f"row_mb must be at most {_MOST_MB}, what a machine can hold; change the value"
            )

    def check(self, place: str, size: int, packed: int) -> None:
        """DataError when `size` bytes, of which the last stand at `place`, have come of `packed`
        ones."""
        if size > self.file_gb * 2**30:
            raise TooMuchError(
                f"{place}: the file unpacks to more than {self.file_gb:g} GB; split it, or raise"
                " limits.file_gb."
            )
        if size > max(_SMALL_BYTES, self.ratio * packed):
            raise TooMuchError(
                f"{place}: the file unpacks to more than {self.ratio:g} times its size; write it"
                " anew, or raise limits.ratio."
            )


LIMITS = Limits()


def user_path(text: str) -> Path:
    """A path as a person writes it: `~` is the home folder. DataError for what can be no path."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise DataError(
            f"{brief(text)}: there is no such home folder; write the path out, or ./~name for a"
            " name with ~."
        ) from None
    if "\0" in text or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.parts):
        raise DataError(
            f"{brief(text)!r}: no name of a file or folder (more than 255 bytes, or NUL in it);"
            " check the path."
        )
    return path


def check_file(path: Path) -> None:
    """DataError unless `path` is an ordinary file that holds the data itself."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = (
                "a folder; name a file in it"
                if stat.S_ISDIR(mode)
                else "no ordinary file but a device or pipe; write its content to one"
            )
            raise DataError(f"{path}: this is {what}.")
        with path.open("rb") as stream:
            head = stream.read(64)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path and its"
            " permissions."
        ) from None
    if head.startswith(b"version https://git-lfs"):
        kind = "not a Parquet file" if path.suffix == ".parquet" else "not the data"
        raise DataError(
            f"{path}:1: this is a Git LFS pointer, {kind}; run `git lfs pull` where it came from."
        )


@dataclass
class Stream:
    """The bytes of a file within its limits; `.gz` is unpacked."""

    path: Path
    stream: IO[bytes]
    limits: Limits
    size: int = 0
    line: int = 1

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        return self._within(self.stream.read(size))

    def readline(self, size: int) -> bytes:
        """A line with its end, or the first `size` bytes of a longer one."""
        return self._within(self.stream.readline(size))

    def _within(self, block: bytes) -> bytes:
        self.size += len(block)
        if self.size > _SMALL_BYTES:
            packed = (
                self.stream.fileobj.tell() if isinstance(self.stream, gzip.GzipFile) else self.size
            )  # type: ignore[union-attr]
            self.limits.check(f"{self.path}:{self.line}", self.size, packed)
        self.line += block.count(b"\n")
        return block


@contextmanager
def open_bytes(path: Path, limits: Limits = LIMITS) -> Iterator[Stream]:
    """Open a file of text for its bytes; DataError for what cannot be plain UTF-8 text."""
    check_file(path)
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            head: bytes = stream.read(64)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file.") from None
    for mark, name in _BOMS.items():
        if head.startswith(mark):
            raise DataError(
                f"{path}:1: the file starts with {name}; save it as UTF-8 without a byte order"
                " mark."
            )
    with opener(path, "rb") as stream:
        yield Stream(path, stream, limits)


def read_lines(path: Path, limits: Limits = LIMITS) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); lines end at "\n" alone. DataError names
    file and line."""
    number, most = 0, int(limits.row_mb * 2**20)
    with open_bytes(path, limits) as stream:
        try:
            while line := stream.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise TooMuchError(
                        f"{path}:{number}: the line is longer than {limits.row_mb:g} MB; split it,"
                        " or raise limits.row_mb."
                    )
                yield number, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8."
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}:{number + 1}: cannot be read to its end ({error}); fetch the file again."
            ) from None


def read_text(path: Path, most_bytes: int = 1 << 28) -> str:
    """The whole of a UTF-8 text file, its lines ended by "\n". DataError for one of more than
    `most_bytes`."""
    try:
        return "".join(
            line + "\n"
            for _, line in read_lines(
                path, Limits(row_mb=most_bytes / 2**20, file_gb=most_bytes / 2**30)
            )
        )
    except TooMuchError:
        raise TooMuchError(
            f"{path}: the file holds more than {most_bytes >> 20} MB, too much for what it is;"
            " check the path."
        ) from None


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
                raise DataError(
                    f"{path}:{number}: the row is a JSON {type(value).__name__}, not an object;"
                    " write one object a line."
                )
            yield number, value
