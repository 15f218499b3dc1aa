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
                if start := block.lstrip():
                    return start.startswith(b"[")
    except (OSError, EOFError, zlib.error):
        return False  # the reader says what is wrong
    return False


def read_array(path: Path, limits: Limits) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of the array in a file. DataError names the row or the line."""
    with open_bytes(path, limits) as stream:
        text = _Text(path, stream, int(limits.row_mb * 2**20))
        number, mark = 0, text.take()
        if text.peek() == "]":
            mark = text.take()
        while mark != "]":
            text.peek()
            number += 1
            yield number, text.value(number)
            if text.peek() not in (",", "]"):
                raise text.broken("Expecting ',' delimiter")
            mark = text.take()
        if text.peek():
            raise text.broken("Extra data")


@dataclass
class _Text:
    """The text in memory: `buffer` from `position` on; a read drops what is before it."""

    path: Path
    stream: Stream
    most: int
    buffer: str = ""
    position: int = 0
    line: int = 1

    def __post_init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def read(self, size: int) -> bool:
        """Read `size` bytes more. False at the end of the file."""
        self.line += self.buffer.count("\n", 0, self.position)
        self.buffer, self.position = self.buffer[self.position :], 0
        try:
            block = self.stream.read(size)
            self.buffer += self.decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            line = self.line + self.buffer.count("\n") + error.object.count(b"\n", 0, error.start)
            why = f"not UTF-8 text ({error.reason}); save the file as UTF-8"
            raise DataError(f"{self.path}:{line}: {why}.") from None
        except (OSError, EOFError, zlib.error) as error:
            why = f"cannot be read to its end ({error}); fetch the file again"
            raise DataError(f"{self.path}:{self.line}: {why}.") from None
        return bool(block)

    def peek(self) -> str:
        """The next character that is not white space, or the empty string at the end."""
        while True:
            self.position = strict_json.space(self.buffer, self.position)
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self.read(_BLOCK):
                return ""

    def take(self) -> str:
        """That character, which is passed."""
        character = self.peek()
        self.position += 1
        return character

    def value(self, number: int) -> Any:
        """The value that begins here, row `number`."""
        # A value that is cut off looks like broken JSON. So more is read, twice as much each time
        # (a long row is then parsed a few times only), until it parses, is too long, or the file
        # ends.
        while True:
            try:
                value, end = strict_json.parse_at(self.buffer, self.position)
            except strict_json.NotJSONError as error:
                if not error.broken:
                    raise DataError(f"{self.path}: row {number}: {error}.") from None
                length, line = len(self.buffer) - self.position, self.line + error.line - 1
                if length > self.most:
                    raise self._too_long(number) from None
                if not self.read(max(_BLOCK, length)):
                    raise DataError(f"{self.path}:{line}: {error}.") from None
                continue
            if end - self.position > self.most:
                raise self._too_long(number)
            self.position = end
            return value

    def _too_long(self, number: int) -> DataError:
        # or a row whose end is missing
        what = f"it is not valid JSON or longer than {self.most / 2**20:g} MB; mend it"
        return DataError(f"{self.path}: row {number}: {what}, or raise limits.row_mb.")

    def broken(self, what: str) -> DataError:
        """The error for what is here."""
        line = self.line + self.buffer.count("\n", 0, self.position)
        return DataError(f"{self.path}:{line}: not valid JSON ({what}); mend the file.")
