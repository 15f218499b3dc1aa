"""Parquet files as a stream of rows in bounded memory, and their writer.

A small file can hold a text once and name it a million times, so sizes are counted before rows
become Python objects.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import DataError, first_line
from bezoar.io import atomic_file
from bezoar.reading import Limits, Row, check_file

_BATCH = 512  # rows that are decoded at once; their texts stay in dictionaries
_PART_BYTES = 1 << 25  # of rows that are Python objects at once
_VALUE_BYTES = 32  # what a value takes beside its text
_MOST_CONTAINERS = 50_000  # columns, row groups
# a row group may hold the first, or the second as often as the whole file is long
_GROUP_BYTES, _GROUP_RATIO = 1 << 28, 200
_GROUP_ROWS = 1 << 14  # written; a reader that streams holds one group
_UNLIMITED = Limits(1 << 62, 1 << 20, 1 << 30, 1 << 62)
_FETCH = "fetch the file again"


@contextmanager
def open_parquet(path: Path, fix: str = _FETCH) -> Iterator[Any]:
    """A `ParquetFile` with texts in dictionaries. DataError, advising `fix`, if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            raise DataError(f"{path}: not a Parquet file (it does not start with PAR1); {fix}.")
    try:
        with pq.ParquetFile(path, thrift_container_size_limit=_MOST_CONTAINERS) as file:
            metadata = file.metadata
        # texts as dictionaries: a value that stands in every row is held once
        columns = map(metadata.schema.column, range(metadata.num_columns))
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, buffer_size=1 << 20)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        why = first_line(error)
        raise DataError(f"{path}: cannot be read after row 0 ({why}); {fix}.") from None
    with file:
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0][:60]
            raise DataError(f"{path}: the column {twice!r} stands twice; rename one.")
        yield file


def num_rows(path: Path, fix: str = _FETCH) -> int:
    """How many rows a Parquet file has."""
    with open_parquet(path, fix) as file:
        return int(file.metadata.num_rows)


def read_parquet(path: Path, limits: Limits = _UNLIMITED, fix: str = _FETCH) -> Iterator[Row]:
    """The rows of a Parquet file. DataError names the row."""
    import pyarrow as pa

    faults = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError, TypeError)
    number, unpacked = 0, 0
    with open_parquet(path, fix) as file:
        packed = path.stat().st_size
        schema = pa.schema([field.with_type(_plain(field.type)) for field in file.schema_arrow])
        try:
            for batch in _batches(path, file):
                # sizes are checked here, before the rows are made
                for part, size, text in _parts(batch):
                    place, unpacked = f"{path}: row {number + 1}", unpacked + text
                    if part.num_rows == 1 and size > limits.row_mb * 2**20:
                        what = f"it holds more than {limits.row_mb:g} MB"
                        raise DataError(f"{place}: {what}; split it, or raise limits.row_mb.")
                    limits.check(place, unpacked, packed)
                    for row in part.cast(schema).to_pylist():
                        number += 1
                        yield row
        except faults as error:
            why = first_line(error)
            raise DataError(f"{path}: cannot be read after row {number} ({why}); {fix}.") from None


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, atomically; columns in the order in which the rows first have them."""
    with parquet_writer(path) as write:
        for row in rows:
            write(row)


@contextmanager
def parquet_writer(path: Path) -> Iterator[Callable[[Row], None]]:
    """What takes rows one by one, of which one row group is in memory; the file is there at the end
    of the block, as `write_parquet` leaves it."""
    with atomic_file(path) as partial:
        groups = _RowGroups(partial)
        try:
            yield groups.add
            groups.write()
        finally:
            groups.close()


class _RowGroups:
    """Rows as they come, with a schema that grows with them."""

    def __init__(self, path: Path) -> None:
        self.path, self.waiting = path, list[Row]()
        self.file: Any = None
        self.schema: Any = None

    def add(self, row: Row) -> None:
        self.waiting.append(row)
        if len(self.waiting) == _GROUP_ROWS:
            self.write()

    def write(self) -> None:
        """The rows that wait, as a row group; without any row, a file without columns."""
        import pyarrow as pa

        # the schema is that of all rows so far: what is null in the first ones may be a text later
        rows, self.waiting = self.waiting, []
        if not rows and self.file:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
        schema = table.schema
        if self.schema is not None:
            schema = pa.unify_schemas([self.schema, schema], promote_options="permissive")
        if self.file is None or schema != self.schema:
            self._open(schema)
        if table.schema != schema:
            table = pa.Table.from_pylist(rows, schema)
        self.file.write_table(table)

    def _open(self, schema: Any) -> None:
        """A file with this schema, which begins with the rows written so far: a column, or a text
        after nulls, may come late."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.close()
        earlier, earlier_schema = self.path.with_name(f"{self.path.name}.earlier"), self.schema
        if earlier_schema is not None:
            self.path.rename(earlier)
        self.file, self.schema = pq.ParquetWriter(self.path, schema), schema
        # seldom, and then the rows are read a row group at a time
        if earlier_schema is not None:
            with pq.ParquetFile(earlier) as file:
                for number in range(file.num_row_groups):
                    rows = file.read_row_group(number).to_pylist()
                    self.file.write_table(pa.Table.from_pylist(rows, schema))
            earlier.unlink()

    def close(self) -> None:
        if self.file:
            self.file.close()


def _batches(path: Path, file: Any) -> Iterator[Any]:
    """Batches of one row group after the other: a batch of two would have two dictionaries."""
    # what pyarrow knows of a group's columns is not looked at: a damaged one ends the process
    most = max(_GROUP_BYTES, _GROUP_RATIO * path.stat().st_size)
    for number in range(file.metadata.num_row_groups):
        unpacked = file.metadata.row_group(number).total_byte_size
        if unpacked > most:
            what = f"a row group unpacks to {unpacked >> 20:,} MB"
            raise DataError(f"{path}: {what}; write smaller row groups.")
        yield from file.iter_batches(_BATCH, row_groups=[number])


def _parts(batch: Any) -> Iterator[tuple[Any, int, int]]:
    """(slice of a batch, bytes as Python objects, bytes of text), of _PART_BYTES or one row."""
    sizes = [_size(column) for column in batch.columns]
    text = sum(size[0] for size in sizes)
    size = text + _VALUE_BYTES * sum(size[1] for size in sizes)
    if batch.num_rows < 2 or size <= _PART_BYTES:
        yield batch, size, text
        return
    # one row can be as large as all others, so halves are measured again
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _size(array: Any) -> tuple[int, int]:
    """(bytes of an array's texts, a repeated one counted each time; number of its values)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    kind, text, num = array.type, 0, len(array)
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    # counted through the dictionary: to unpack it is what must not happen yet
    texts = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())
    if pa.types.is_nested(kind):
        for inner in array.flatten() if pa.types.is_struct(kind) else [array.flatten()]:
            more = _size(inner)
            text, num = text + more[0], num + more[1]
    elif pa.types.is_dictionary(kind) and kind.value_type in texts:
        text = pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    elif kind in texts:
        text = pc.sum(pc.binary_length(array)).as_py() or 0
    return text, num


def _plain(kind: Any) -> Any:
    """The type without dictionaries, which are slow to turn into Python objects."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind
