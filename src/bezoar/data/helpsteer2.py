"""HelpSteer2: answers with five attribute scores (arXiv 2406.08673), and which of two answers
people preferred (arXiv 2410.01257)."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import Chat, Comparison, Dropped, Message, Messages
from bezoar.data.rows import RowOrigin, number, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, checked_pair, split_turns
from bezoar.io import Row

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# of several turns, each after the first begins with such a line
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_INVALID = -100


@dataclass(frozen=True)
class HelpSteer2(Source[Chat]):
    """Answers with five attributes: columns prompt, response and one for each attribute.

    The attributes (helpfulness, correctness, coherence, complexity, verbosity) are whole numbers
    from 0 to 4 and go to `meta["attributes"]`. The two answers to a prompt are neighbouring rows.

    Source: arXiv 2406.08673
    Example: {kind: helpsteer2, path: nvidia/HelpSteer2, split: train, limit: 1000}
    """

    kind: Literal["helpsteer2"] = "helpsteer2"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        scores = {name: number(row, name, at) for name in ATTRIBUTES}
        for name, score in scores.items():
            if score not in range(5):
                raise at.wrong(f"the column {name!r} is {score}, not one of 0 to 4; mend it.")
        answer = Message("assistant", text(row, "response", at))
        messages = (*_prompt(row, at), answer)
        attributes = {name: int(score) for name, score in scores.items()}
        return checked_chat(messages, at, {"attributes": attributes})


@dataclass(frozen=True)
class HelpSteer2Preference(Source[Comparison]):
    """Pairs with the strength of the preference, by people.

    Columns prompt, response_1, response_2 and preference_strength, which goes from -3 (the first
    answer is much better) to 3 (the second is); its size is kept as `meta["strength"]`. Rows with 0
    (equally good) and -100 (neither is valid) are dropped.

    Source: arXiv 2410.01257
    Example: {kind: helpsteer2_preference, path: nvidia/HelpSteer2, subset: preference, part: train}
    """

    part: str = ""
    """Keep only rows with this value in the column split, `train` or `validation`; "" keeps all."""
    kind: Literal["helpsteer2_preference"] = "helpsteer2_preference"
    passed: ClassVar[frozenset[str]] = frozenset(
        {
            "split",
            "preference_statement",
            "preference_elaboration",
            "three_most_similar_preferences",
            "all_preferences_unprocessed",
        }
    )
    subset_is: ClassVar[str] = "data_dir"
    shape = "comparisons"

    def read(self, row: Row, at: RowOrigin) -> Comparison | Dropped:
        if self.part and text(row, "split", at) != self.part:
            return Dropped(at.id, "other part", at.text)
        strength = number(row, "preference_strength", at)
        if strength in (0, _INVALID):
            return Dropped(at.id, "no preference" if strength == 0 else "invalid", at.text)
        if strength not in range(-3, 4):
            fault = f"preference_strength is {strength}; it is a whole number from -3 to 3"
            raise at.wrong(f"{fault}, or {_INVALID}.")
        first, second = text(row, "response_1", at), text(row, "response_2", at)
        # (chosen, rejected)
        answers = (first, second) if strength < 0 else (second, first)
        return checked_pair(_prompt(row, at), answers, at, {"strength": abs(int(strength))})


def _prompt(row: Row, at: RowOrigin) -> Messages:
    # the first turn has no line of its own that names the speaker
    return split_turns(["User", *_TURN.split(text(row, "prompt", at))])
