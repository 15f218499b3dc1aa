"""AlpacaEval's annotation files: read, with its win rate and standard error."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bezoar.chat.types import Comparison
from bezoar.data.rows import RowOrigin, column, number, read_file, text
from bezoar.io import Row


def read_alpaca_eval(path: Path) -> tuple[list[Comparison], list[float | None]]:
    """AlpacaEval's annotations: pairs with the model's answer as `chosen`, and its share of each
    win.

    `preference` runs from 1 (output_1, the baseline) to 2 (output_2, the model); 0 is a draw, null
    a failure. DataError for an instruction that stands twice for one model.
    """
    pairs: list[Comparison] = []
    values: list[float | None] = []
    seen: set[tuple[str, str]] = set()
    for at, row in read_file(path, path.stem):
        key = (text(row, "instruction", at), str(row.get("generator_2", "")))
        if key in seen:
            raise at.wrong(
                f"the instruction {key[0][:60]!r} stands twice for the model {key[1]!r}; remove"
                " one."
            )
        seen.add(key)
        pairs.append(
            Comparison(
                at.id,
                (),
                text(row, "output_2", at),
                text(row, "output_1", at),
                {"instruction": key[0]},
            )
        )
        values.append(_share(row, at))
    return pairs, values


def _share(row: Row, at: RowOrigin) -> float | None:
    if column(row, "preference", at) is None:
        return None
    preference = number(row, "preference", at)
    if preference == 0:
        return 0.5
    if not 1 <= preference <= 2:
        raise at.wrong(f"preference is {preference:g}, not between 1 and 2; mend the row.")
    return preference - 1


def standard_error(values: Sequence[float | None]) -> float | None:
    """Of the mean: standard deviation (n - 1) over the root of n, as AlpacaEval prints it; None for
    fewer than two values."""
    kept = [v for v in values if v is not None]
    return float(np.std(kept, ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else None
