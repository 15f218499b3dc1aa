"""Rows of a file in another order, of which few are in memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from bezoar.chat.types import AnyRow, Chat, as_chat


def in_order(
    rows: Iterable[AnyRow], positions: Sequence[int], work_dir: Path | None = None
) -> Iterator[Chat]:
    """The chats at `positions` (no two equal) of `rows`, in that order.

    Rows that are no list are gone through once, and those that are wanted copied to a nameless file
    in `work_dir`; in memory are 24 bytes of each.
    """
    if isinstance(rows, Sequence):
        yield from (as_chat(rows[position]) for position in positions)
        return
    wanted = np.array(positions, np.int64)
    order, offsets = np.argsort(wanted), np.zeros_like(wanted)
    with TemporaryFile(dir=work_dir) as file:
        coming = zip(wanted[order], order, strict=True)
        position, place = next(coming, (-1, -1))
        for number, row in enumerate(rows):
            if number == position:
                offsets[place] = file.tell()
                file.write(json.dumps(as_chat(row).to_row()).encode() + b"\n")
                position, place = next(coming, (-1, -1))
        for offset in offsets:
            file.seek(offset)
            yield Chat.from_row(json.loads(file.readline()))
