"""A table of numbers in a temporary file, written by rows and read by columns, in little memory."""

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# bytes; small tables never touch the disk
_IN_MEMORY = 1 << 24


class ColumnFile:
    """Blocks of rows one behind the other, each of them column by column.

    `folder` has the file, which is gone with the process; up to 16 MiB stay in memory.
    """

    def __init__(self, num_columns: int, dtype: DTypeLike, folder: str | None) -> None:
        self.num_columns, self.dtype = num_columns, np.dtype(dtype)
        # rows of each
        self.blocks: list[int] = []
        self._file = SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115

    def append(self, block: NDArray[Any]) -> None:
        """More rows, as [columns, rows]."""
        self._file.seek(0, 2)
        self._file.write(block.astype(self.dtype, copy=False).tobytes())
        self.blocks.append(block.shape[1])

    def column(self, number: int) -> NDArray[Any]:
        """[rows]: one column of all rows."""
        values = np.empty(sum(self.blocks), self.dtype)
        for rows, place in self._places(number):
            self._file.seek(place)
            data = self._file.read((rows.stop - rows.start) * self.dtype.itemsize)
            values[rows] = np.frombuffer(data, self.dtype)
        return values

    def set_column(self, number: int, values: NDArray[Any]) -> None:
        """Write one column of all rows."""
        for rows, place in self._places(number):
            self._file.seek(place)
            self._file.write(values[rows].astype(self.dtype, copy=False).tobytes())

    def rows(self) -> Iterator[NDArray[Any]]:
        """Blocks of [rows, columns]."""
        place = 0
        for size in self.blocks:
            self._file.seek(place)
            data = self._file.read(size * self.num_columns * self.dtype.itemsize)
            place += len(data)
            yield np.frombuffer(data, self.dtype).reshape(self.num_columns, size).T.copy()

    def _places(self, number: int) -> Iterator[tuple[slice, int]]:
        """The rows of each block, and where their numbers of a column begin in the file."""
        first = 0
        for size in self.blocks:
            values_before = first * self.num_columns + number * size
            yield slice(first, first + size), values_before * self.dtype.itemsize
            first += size
