"""What rewards that are programs share. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bezoar.bounds import Positive
from bezoar.chat.types import AnyRow
from bezoar.errors import DataError


@dataclass(frozen=True)
class Program:
    """A reward that a program computes from a row and the text of an answer to it.

    `needs` are keys of `meta` that a row must have.
    """

    weight: Positive = field(default=1.0, kw_only=True)
    """Factor of this reward in the sum of all."""
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def kind(self) -> str:
        """Its name in recipes."""
        raise NotImplementedError

    def read(self, row: AnyRow) -> Any:
        """What the row says of a right answer. ValueError if it lacks that."""
        raise NotImplementedError

    def score(self, row: AnyRow, text: str) -> float:
        """What the answer is worth, from 0 to 1."""
        raise NotImplementedError


def check_rows(rewards: Sequence[Program], rows: Iterable[AnyRow]) -> None:
    """DataError for the first row that lacks what a reward reads."""
    for row in rows:
        for reward in rewards:
            try:
                for key in reward.needs - row.meta.keys():
                    raise ValueError(f"meta.{key} is missing")
                reward.read(row)
            except ValueError as error:
                fix = f"the reward {reward.kind} needs it; mend or remove the row"
                raise DataError(f"row {row.id}: {error}; {fix}.") from None
