"""Files as a stream of rows, each with its origin; what is no row is an error."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bezoar import reading, strict_json
from bezoar.data.csv_rows import read_csv
from bezoar.data.json_array import is_array, read_array
from bezoar.errors import DataError, brief
from bezoar.parquet import read_parquet
from bezoar.reading import LIMITS, Limits, Row

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


class RowOrigin(NamedTuple):
    """Where a row is: `text` is what an error names (file:line), `label` and `line` make its id."""

    text: str
    label: str
    line: int

    @property
    def id(self) -> str:
        """The same on every machine: `<source>:<line>`."""
        return f"{self.label}:{self.line}"

    def wrong(self, what: str) -> DataError:
        """The error to raise for this row."""
        return DataError(f"{self.text}: {brief(what)}")

    def wrong_type(self, name: str, value: Any, wanted: str) -> DataError:
        """The error to raise for a column of another type."""
        kind = type(value).__name__
        return self.wrong(f"the column {name!r} is a {kind}, not {wanted}; mend it.")


Placed = tuple[RowOrigin, Row]


def suffix(path: Path) -> str:
    """The one of SUFFIXES that a file has, packed (`.jsonl.gz`) or not; "" for any other file."""
    name = path.name.removesuffix(".gz")
    return next((end for end in SUFFIXES if name.endswith(end)), "")


Reader = Callable[[Path, str, Limits], Iterator[Placed]]


def read_file(
    path: Path, label: str, limits: Limits = LIMITS, reader: Reader | None = None
) -> Iterator[Placed]:
    """The rows of a data file, within `limits`, by the reader for its suffix unless one is given.
    DataError names the file and the line or row."""
    reading.check_file(path)
    readers: dict[str, Reader] = {
        ".jsonl": _jsonl,
        ".json": _json,
        ".csv": csv_rows,
        ".tsv": _tsv,
        ".parquet": _parquet,
    }
    if reader is None and suffix(path) not in readers:
        known = f"{', '.join(SUFFIXES)} (and .gz of all but the last)"
        raise DataError(f"{path}: rows are read from {known}; convert the file.")
    num_rows = 0
    read = reader or readers[suffix(path)]
    for num_rows, (at, row) in enumerate(read(path, label, limits), 1):
        if num_rows > limits.rows:
            what = f"the file holds more than {limits.rows:,} rows; take fewer with limit"
            raise at.wrong(f"{what}, or raise limits.rows.")
        yield at, row
    if num_rows == 0:
        raise DataError(f"{path}: the file holds no rows; check that it was written to its end.")


def _jsonl(path: Path, label: str, limits: Limits) -> Iterator[Placed]:
    for number, row in reading.read_jsonl(path, limits):
        yield RowOrigin(f"{path}:{number}", label, number), row


def _json(path: Path, label: str, limits: Limits) -> Iterator[Placed]:
    """An array of objects, read row by row; one object; or JSON Lines under the wrong name."""
    if is_array(path):
        for number, value in read_array(path, limits):
            at = RowOrigin(f"{path}: row {number}", label, number)
            yield at, _object(value, at)
        return
    # an object may go over many lines: then the first of them is not a whole object
    first_lines = (line for _, line in reading.read_lines(path, limits) if line.strip())
    first = next(first_lines, "")
    if not first or _is_whole_object(first):
        yield from _jsonl(path, label, limits)
        return
    at = RowOrigin(f"{path}: row 1", label, 1)
    try:
        value = strict_json.parse(reading.read_text(path, int(limits.row_mb * 2**20)))
    except strict_json.NotJSONError as error:
        raise DataError(f"{path}:{error.line}: {error}.") from None
    except reading.TooMuchError:
        what = f"it is longer than {limits.row_mb:g} MB; split it"
        raise at.wrong(f"{what}, or raise limits.row_mb.") from None
    yield at, _object(value, at)


def _is_whole_object(line: str) -> bool:
    try:
        return isinstance(strict_json.parse(line), dict)
    except strict_json.NotJSONError as error:
        return not error.broken  # then the reader of lines says what is wrong with this one


def _object(value: Any, at: RowOrigin) -> Row:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise at.wrong(f"the row is a JSON {kind}, not an object; write one object a row.")
    return value


def _tsv(path: Path, label: str, limits: Limits) -> Iterator[Placed]:
    """Tab-separated without a header: columns `0`, `1`, ...; a newline is written `\\n`."""
    # a tab inside a text would shift the columns after it, so every line has as many as the first
    width = 0
    for number, line in reading.read_lines(path, limits):
        if not line.strip():
            continue
        at, cells = RowOrigin(f"{path}:{number}", label, number), line.split("\t")
        width = width or len(cells)
        if len(cells) != width:
            what = f"the line has {len(cells)} tab-separated columns and the first has {width}"
            raise at.wrong(f"{what}; mend the line.")
        yield at, {str(index): cell.replace("\\n", "\n") for index, cell in enumerate(cells)}


def csv_rows(
    path: Path, label: str, limits: Limits, *, delimiter: str = "", encoding: str = "utf-8"
) -> Iterator[Placed]:
    """The rows of a CSV file, whose header names the columns."""
    for number, row in read_csv(path, limits, delimiter=delimiter, encoding=encoding):
        yield RowOrigin(f"{path}:{number}", label, number), row


def _parquet(path: Path, label: str, limits: Limits) -> Iterator[Placed]:
    for number, row in enumerate(read_parquet(path, limits), 1):
        yield RowOrigin(f"{path}: row {number}", label, number), row


def parse_json(text: str, at: RowOrigin, name: str = "") -> Any:
    """The JSON value of a text, of the column `name`; DataError for what `strict_json` refuses."""
    try:
        return strict_json.parse(text)
    except strict_json.NotJSONError as error:
        place = f"the text in the column {name!r}: " if name else ""
        raise at.wrong(f"{place}{error}.") from None


def column(row: Row, name: str, at: RowOrigin) -> Any:
    """The value in a needed column; DataError names the columns that are there."""
    if name not in row:
        names = ", ".join(map(str, row)) or "none"
        raise at.wrong(f"the row has no column {name!r}; it has {names}.")
    return row[name]


def text(row: Row, name: str, at: RowOrigin, *, needed: bool = True) -> str:
    """A stripped column of text; null is empty, and so is an absent column unless `needed`."""
    value = column(row, name, at) if needed else row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise at.wrong_type(name, value, "text")
    return value.strip()


def number(row: Row, name: str, at: RowOrigin) -> float:
    """A column that holds a number."""
    value = column(row, name, at)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise at.wrong_type(name, value, "a number")
    if not abs(value) <= sys.float_info.max:
        shown = str(value)[:20]
        raise at.wrong(f"the column {name!r} is {shown}, not a number that a float can hold.")
    return value
