"""HelpSteer2 (arXiv 2406.08673): answers with five attribute scores."""

import re
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped, Message, Messages
from bezoar.data.rows import RowOrigin, number, text
from bezoar.data.source import Source
from bezoar.data.turns import conversation
from bezoar.io import Row

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


@dataclass(frozen=True)
class HelpSteer2(Source[Chat]):
    """Columns prompt, response and the five attributes, whole numbers from 0 to 4, which go to
    `meta["attributes"]`.

    A prompt of several turns holds `<extra_id_1>Assistant` and `<extra_id_1>User` lines between
    them. The two answers to one prompt stand in neighbouring rows.
    """

    kind: Literal["helpsteer2"] = "helpsteer2"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        """One answer."""
        attributes = {name: number(row, name, at) for name in ATTRIBUTES}
        for name, value in attributes.items():
            if value not in range(5):
                raise at.wrong(
                    f"the column {name!r} is {value}; HelpSteer2 scores are whole numbers from 0"
                    " to 4."
                )
        messages = (
            *prompt_turns(text(row, "prompt", at)),
            Message("assistant", text(row, "response", at)),
        )
        return conversation(
            messages, at, {"attributes": {name: int(value) for name, value in attributes.items()}}
        )


def prompt_turns(prompt: str) -> Messages:
    """The turns of a prompt with `<extra_id_1>` lines between them, without white space at their
    ends."""
    first, *parts = _TURN.split(prompt)
    turns = [("User", first), *zip(parts[::2], parts[1::2], strict=True)]
    return tuple(
        Message("user" if who == "User" else "assistant", said.strip()) for who, said in turns
    )
