"""Parquet files as a stream of rows in bounded memory: a small file can hold a text once and name it a million times."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import DataError
from bezoar.reading import LIMITS, Limits, Row, check_file

_BATCH = 512  # rows that are decoded at once; their texts stay in dictionaries
_PART_BYTES = 1 << 25  # of rows that are Python objects at once
_VALUE_BYTES = 32  # what a value takes beside its text
_MOST_VALUES = 1 << 25  # of a column in one row group, which may all be one row's
_MOST_CONTAINERS = 50_000  # columns, row groups
_MOST_RATIO, _RATIO_FROM = 200, 1 << 28  # a column that grows that much when it is unpacked to more than that many bytes


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` that holds texts in dictionaries. DataError for a file that is not one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            raise DataError(f"{path}: not a Parquet file (it does not start with PAR1); fetch the file again.")
    try:
        with pq.ParquetFile(path, thrift_container_size_limit=_MOST_CONTAINERS) as file:
            metadata = file.metadata
        texts = [c.path for c in map(metadata.schema.column, range(metadata.num_columns)) if c.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, buffer_size=1 << 20)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read after row 0 ({_first_line(error)}); fetch the file again.") from None
    with file:
        if len(set(names)) < len(names):
            raise DataError(f"{path}: the column {Counter(names).most_common(1)[0][0][:60]!r} stands twice; rename one.")
        yield file


def read_rows(path: Path, limits: Limits = LIMITS) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of a Parquet file. DataError names the row."""
    import pyarrow as pa

    number, left = 0, int(limits.file_gb * 2**30)
    with open_parquet(path) as file:
        _check_groups(path, file.metadata)
        schema = pa.schema([field.with_type(_plain(field.type)) for field in file.schema_arrow])
        try:
            for batch in file.iter_batches(_BATCH):
                for part, size in _parts(batch):
                    left -= size
                    if part.num_rows == 1 and size > limits.row_mb * 2**20:
                        raise DataError(f"{path}: row {number + 1}: it holds more than {limits.row_mb:g} MB; split it, or raise limits.row_mb.")
                    if left < 0:
                        raise DataError(f"{path}: row {number + 1}: the file unpacks to more than {limits.file_gb:g} GB; split it, or raise limits.file_gb.")
                    for number, row in enumerate(part.cast(schema).to_pylist(), number + 1):  # noqa: B020
                        yield number, row
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: cannot be read after row {number} ({_first_line(error)}); fetch the file again.") from None


def _check_groups(path: Path, metadata: Any) -> None:
    """DataError for a part that could not be decoded in bounded memory."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked, packed = column.total_uncompressed_size, max(column.total_compressed_size, 1)
            if column.num_values > _MOST_VALUES or (unpacked > _RATIO_FROM and unpacked / packed > _MOST_RATIO):
                raise DataError(
                    f"{path}: the column {column.path_in_schema[:60]!r} unpacks to {column.num_values:,} values and {unpacked >> 20:,} MB in one row group; "
                    "write it in smaller row groups."
                )


def _parts(batch: Any) -> Iterator[tuple[Any, int]]:
    """Slices of a batch that come to at most _PART_BYTES as Python objects, or are one row, and what they come to."""
    size = sum(_size(column) for column in batch.columns)
    if size <= _PART_BYTES or batch.num_rows < 2:
        yield batch, size
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _size(array: Any) -> int:
    """The bytes of an array's values as Python objects, those of its dictionary as often as they are named."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, size = array.type, _VALUE_BYTES * len(array)
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return size + _size(array.flatten())
    if pa.types.is_struct(kind):
        return size + sum(map(_size, array.flatten()))
    if pa.types.is_dictionary(kind) and kind.value_type in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return size + (pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)
    return size + int(array.nbytes)


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")[:200]
