"""Whether the answer is a number."""

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import AnyRow
from bezoar.train.rewards.program import Program

_NUMBER = re.compile(
    # a minus behind a digit or a letter is an operator or a hyphen
    r"(?:(?<![\w)])[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?"
    r"|(?:(?<![\w)])[-−])?\.\d+"
)


def numbers_in(text: str) -> list[float]:
    """The numbers of a text in order, commas between thousands read as such."""
    found = (match[0].replace(",", "").replace("−", "-") for match in _NUMBER.finditer(text))
    return [float(number) for number in found]


@dataclass(frozen=True)
class Number(Program):
    """1 if the last number in the answer equals the row's, else 0.

    The row has it as `meta.number`, a number or a text with one number in it. Equal is within 1e-9
    of the larger; commas between thousands are passed over.

    Example: {kind: number}
    """

    kind: Literal["number"] = "number"
    needs: ClassVar[frozenset[str]] = frozenset({"number"})

    def read(self, row: AnyRow) -> float:
        value = row.meta["number"]
        found = numbers_in(value) if isinstance(value, str) else [value]
        # in Python true is a number too
        is_number = len(found) == 1 and isinstance(found[0], int | float)
        if not is_number or isinstance(value, bool) or not math.isfinite(found[0]):
            raise ValueError(f"meta.number is {value!r}, not one number")
        return float(found[0])

    def score(self, row: AnyRow, text: str) -> float:
        # the last one: what stands before it is how the answer was found
        found = numbers_in(text)
        return float(bool(found) and math.isclose(found[-1], self.read(row)))
