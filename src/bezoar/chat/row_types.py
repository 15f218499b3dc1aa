"""What is known of rows before they are there: their shape, and what each carries beside texts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Comparison

Shape = Literal["chats", "comparisons", "sampled answers"]


@dataclass(frozen=True)
class RowType:
    """Rows that a stage gives, or that it can read.

    `carries` names what every row has: of chats and comparisons the keys of `meta`, with the
    attributes as `attributes.NAME`; of sampled answers their numbers. None is not known.
    """

    shape: Shape | None = None
    carries: frozenset[str] | None = None

    def __str__(self) -> str:
        return f"{self.shape or 'rows'}{self.listed(' with ', self.carries or ())}"

    def listed(self, before: str, names: Iterable[str]) -> str:
        """What rows of this shape carry, as the end of a sentence."""
        at = "" if self.shape == "sampled answers" else "meta."
        return before * bool(names) + " and ".join(f"{at}{name}" for name in sorted(names))

    def fits(self, needed: "RowType") -> bool:
        """Whether these rows can be what is needed; what is not known can."""
        same_shape = self.shape is None or self.shape == needed.shape
        has_all = self.carries is None or (needed.carries or frozenset()) <= self.carries
        return same_shape and has_all

    def adding(self, *names: str) -> "RowType":
        """The same rows, each with more in it."""
        known = self.carries
        return replace(self, carries=None if known is None else known | frozenset(names))

    def chats(self) -> "RowType":
        """What `as_chats` makes of these rows."""
        return replace(self, shape="chats")


RowNeed = tuple[RowType, ...]
"""The alternatives, one of which the rows must be; none for rows of any shape."""
ANY = RowType()
COMPARISONS = RowType("comparisons")
TEXTS: RowNeed = (RowType("chats"), COMPARISONS)
"""Rows with one answer that counts: `as_chats` reads both."""


def described(need: RowNeed) -> str:
    """The first alternative of each shape, as words."""
    by_shape = {needed.shape: needed for needed in reversed(need)}
    return " or ".join(str(by_shape[shape]) for shape in dict.fromkeys(n.shape for n in need))


def type_of(rows: Iterable[AnyRow]) -> RowType:
    """The type of rows that are there; something that one of them carries counts for all."""
    shape: Shape | None = None
    carried: set[str] = set()
    for row in rows:
        if isinstance(row, Chat):
            shape = "chats"
        else:
            shape = "comparisons" if isinstance(row, Comparison) else "sampled answers"
        carried |= set(row.meta if isinstance(row, Chat | Comparison) else row.numbers)
        attributes = row.meta.get("attributes")
        if isinstance(attributes, dict):
            carried |= {f"attributes.{name}" for name in attributes}
    return RowType(shape, frozenset(carried)) if shape else ANY
