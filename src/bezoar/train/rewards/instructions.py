"""Whether the answer keeps the row's instructions of form."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bezoar.chat.types import AnyRow
from bezoar.train.rewards.program import Program
from bezoar.verdicts.instructions import Rule, read_instruction, share_kept


@dataclass(frozen=True)
class Instructions(Program):
    """The share of the row's instructions that the answer keeps, such as words, bullets and case.

    The row has them as `meta.instructions`, a list of tables of `kind` and, where the kind has one,
    `value`: at_least_words, at_most_words, sentences, paragraphs, bullets (whole numbers), keyword,
    forbidden, begins_with, ends_with (texts), lowercase, uppercase, no_commas, quotation, json,
    two_answers. The kinds are like IFEval's, the checks are ours: IFEval itself stays unseen.

    Source: the idea, arXiv 2311.07911
    Example: {kind: instructions}
    """

    kind: Literal["instructions"] = "instructions"
    needs: ClassVar[frozenset[str]] = frozenset({"instructions"})

    def read(self, row: AnyRow) -> list[tuple[Rule, Any]]:
        """Rules with their arguments."""
        values = row.meta["instructions"]
        if not isinstance(values, list) or not values:
            raise ValueError("meta.instructions is no list of instructions")
        try:
            return [read_instruction(value) for value in values]
        except ValueError as error:
            raise ValueError(f"meta.instructions: {error}") from None

    def score(self, row: AnyRow, text: str) -> float:
        return share_kept(self.read(row), text)
