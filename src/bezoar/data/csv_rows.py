"""Rows of a CSV file with a header: quoted cells of several lines, any delimiter and encoding."""

import codecs
import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

from bezoar.errors import DataError
from bezoar.reading import LIMITS, Limits, Stream, open_bytes

_BLOCK = 1 << 16


def read_csv(
    path: Path, limits: Limits = LIMITS, *, delimiter: str = "", encoding: str = "utf-8"
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line that a row begins on, row) of the rows below the header.

    Without `delimiter` it is the usual one. DataError names file and line.
    """
    delimiter = delimiter or usual_delimiter(path)
    most = int(limits.row_mb * 2**20)
    csv.field_size_limit(most)  # the module's own is 128 kB
    header: list[str] = []
    with open_bytes(path, limits, marked=True) as stream:
        reader = csv.reader(_lines(path, stream, encoding, most), delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fix = "close the quotes that the row opens, and write a quote in a cell twice"
                raise DataError(f"{path}:{start}: not valid CSV ({error}); {fix}.") from None
            if cells is None:
                return
            if not cells:
                continue  # a blank line
            if not header:
                header = _header(cells, f"{path}:{start}", delimiter)
                continue
            if len(cells) != len(header):
                what = f"the row has {len(cells)} cells and the header {len(header)}"
                fix = f"quote cells that hold {delimiter!r}, a quote or a line end"
                raise DataError(f"{path}:{start}: {what}; {fix}.")
            # Windows ends the lines within a cell otherwise
            yield start, dict(zip(header, (c.replace("\r\n", "\n") for c in cells), strict=True))


def usual_delimiter(path: Path) -> str:
    """A tab in a `.tsv` file, else a comma."""
    return "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","


def _header(cells: list[str], place: str, delimiter: str) -> list[str]:
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise DataError(f"{place}: two columns are named {twice!r}; rename one.")
    other = next((mark for mark in ";\t|," if mark != delimiter and mark in cells[0]), "")
    if len(cells) == 1 and other:
        shown = "\\t" if other == "\t" else other
        fault = f"with {delimiter!r} as the delimiter the header is one column, {cells[0]!r}"
        raise DataError(f'{place}: {fault}; use kind csv with `delimiter: "{shown}"`.')
    return names


def _lines(path: Path, stream: Stream, encoding: str, most: int) -> Iterator[str]:
    """The lines with their ends, of at most `most` characters."""
    # a mark at the start is no part of the first column's name
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8 else encoding)()
    number, rest, block = 1, "", b"-"
    while block:
        try:
            block = stream.read(_BLOCK)
            *whole, rest = (rest + decoder.decode(block, not block)).split("\n")
        except UnicodeError as error:
            if isinstance(error, UnicodeDecodeError):
                number += error.object.count(b"\n", 0, error.start)
            what = f"not {encoding} text ({getattr(error, 'reason', error)})"
            fix = "save the file as UTF-8, or name its encoding with kind csv"
            raise DataError(f"{path}:{number}: {what}; {fix}.") from None
        except (OSError, EOFError, zlib.error) as error:
            why = f"cannot be read to its end ({error}); fetch the file again"
            raise DataError(f"{path}:{number}: {why}.") from None
        for line in whole:
            yield line + "\n"
        number += len(whole)
        if len(rest) > most:
            raise DataError(f"{path}:{number}: the line is too long; raise limits.row_mb.")
    if rest:
        yield rest
