"""A JSON array read row by row, so that a file of any size takes the memory of its longest row."""

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar import strict_json
from bezoar.errors import DataError
from bezoar.reading import Limits, Stream, open_bytes

_BLOCK = 1 << 16


def is_array(path: Path) -> bool:
    """Whether the first character of the file that is not white space begins an array."""
    try:
        with open_bytes(path) as stream:
            while block := stream.read(_BLOCK):
                if found := block.lstrip():
                    return found.startswith(b"[")
    except (OSError, EOFError, zlib.error):
        return False  # the reader says what is wrong
    return False


def read_array(path: Path, limits: Limits) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of the array that a file holds. DataError names the row, or the line
    where the text breaks."""
    with open_bytes(path, limits) as stream:
        text = _Text(path, stream, int(limits.row_mb * 2**20))
        number, mark = 0, ","
        text.skip()
        text.at += 1
        if text.skip() == "]":
            mark, text.at = "]", text.at + 1
        while mark == ",":
            text.skip()
            number += 1
            yield number, text.value(number)
            mark = text.skip()
            if mark not in (",", "]"):
                raise text.broken("Expecting ',' delimiter")
            text.at += 1
        if text.skip():
            raise text.broken("Extra data")


@dataclass
class _Text:
    """The part of a file's text that is looked at."""

    path: Path
    stream: Stream
    most: int
    buffer: str = ""
    at: int = 0
    line: int = 1

    def __post_init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def more(self, size: int) -> bool:
        """Read on; what lies behind is let go. False at the end of the file."""
        self.line += self.buffer.count("\n", 0, self.at)
        self.buffer, self.at = self.buffer[self.at :], 0
        try:
            block = self.stream.read(size)
            self.buffer += self.decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            line = self.line + self.buffer.count("\n") + error.object.count(b"\n", 0, error.start)
            raise DataError(
                f"{self.path}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8."
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.path}:{self.line}: cannot be read to its end ({error}); fetch the file"
                " again."
            ) from None
        return bool(block)

    def skip(self) -> str:
        """Go past white space; the character that stands there, or the empty string at the end."""
        while True:
            self.at = strict_json.space(self.buffer, self.at)
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more(_BLOCK):
                return ""

    def value(self, number: int) -> Any:
        """The value that begins here. Twice as much is read as long as what is there could be its
        beginning."""
        while True:
            try:
                value, end = strict_json.parse_at(self.buffer, self.at)
            except strict_json.NotJSONError as error:
                if not error.broken:
                    raise DataError(f"{self.path}: row {number}: {error}.") from None
                length, line = len(self.buffer) - self.at, self.line + error.line - 1
                if length <= self.most and self.more(max(_BLOCK, length)):
                    continue
                if length > self.most:
                    raise self.too_long(number) from None
                raise DataError(f"{self.path}:{line}: {error}.") from None
            if end - self.at > self.most:
                raise self.too_long(number)
            self.at = end
            return value

    def too_long(self, number: int) -> DataError:
        """The error for a row beyond the limit, which may be one whose end is missing."""
        return DataError(
            f"{self.path}: row {number}: it is not valid JSON or longer than {self.most / 2**20:g}"
            " MB; mend it, or raise limits.row_mb."
        )

    def broken(self, what: str) -> DataError:
        """The error for what stands here."""
        line = self.line + self.buffer.count("\n", 0, self.at)
        return DataError(f"{self.path}:{line}: not valid JSON ({what}); mend the file.")
