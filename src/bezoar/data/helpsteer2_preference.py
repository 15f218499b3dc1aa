"""HelpSteer2-Preference (arXiv 2410.01257): which of two answers people preferred, and how
strongly."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import Comparison, Dropped
from bezoar.data.helpsteer2 import prompt_turns
from bezoar.data.rows import RowOrigin, number, text
from bezoar.data.source import Source
from bezoar.data.turns import comparison
from bezoar.io import Row

_INVALID = -100


@dataclass(frozen=True)
class HelpSteer2Preference(Source[Comparison]):
    """Columns prompt, response_1, response_2 and preference_strength: -3 (the first is much better)
    to 3 (the second is).

    `meta["strength"]` is its size. Rows with 0 (as good as each other) and -100 (neither is valid)
    are dropped, and with `part` those whose column split is another: the one file holds the pairs
    of the training and of the validation prompts.
    """

    part: str = ""
    kind: Literal["helpsteer2_preference"] = "helpsteer2_preference"
    subset_is: ClassVar[str] = "data_dir"

    def read(self, row: Row, at: RowOrigin) -> Comparison | Dropped:
        """One pair."""
        if self.part and text(row, "split", at) != self.part:
            return Dropped(at.id, "other part", at.text)
        strength = number(row, "preference_strength", at)
        if strength in (0, _INVALID):
            return Dropped(at.id, "no preference" if strength == 0 else "invalid", at.text)
        if strength not in range(-3, 4):
            raise at.wrong(
                f"preference_strength is {strength}; it is a whole number from -3 to 3, or"
                f" {_INVALID}."
            )
        first, second = text(row, "response_1", at), text(row, "response_2", at)
        answers = (first, second) if strength < 0 else (second, first)
        return comparison(
            prompt_turns(text(row, "prompt", at)), answers, at, {"strength": abs(int(strength))}
        )
