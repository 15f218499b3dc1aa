"""Stanford Alpaca's format: instructions, some with an input."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import Chat, Dropped, Message
from bezoar.data.rows import RowOrigin, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, with_system
from bezoar.data.unused_columns import METADATA
from bezoar.io import Row

_PLACE = re.compile(r"\{(instruction|input)\}")


@dataclass(frozen=True)
class Alpaca(Source[Chat]):
    """Instructions with an optional input: columns instruction, input, output and system.

    From JSON Lines, a JSON list, CSV, Parquet or a Hub dataset. Where the input is empty (or
    `<noinput>`), the instruction is the whole prompt; a column `system`, where there is one, is the
    system message. The first and last sentence of Alpaca's own prompt are left to the template.

    Source: github.com/tatsu-lab/stanford_alpaca
    Example: {kind: alpaca, path: tatsu-lab/alpaca, limit: 1000}
    """

    instruction: str = "instruction"
    """Name of the column of instructions."""
    input: str = "input"
    """Name of the column of inputs, which a row may lack."""
    output: str = "output"
    """Name of the column of answers."""
    system: str = "system"
    """Name of the column of system messages, which a row may lack."""
    with_input: str = "{instruction}\n\n### Input:\n{input}"
    """The prompt of a row with an input, as in Alpaca."""
    kind: Literal["alpaca"] = "alpaca"
    # the Hub's copy holds the whole prompt with its answer too
    passed: ClassVar[frozenset[str]] = METADATA | {"text"}
    column_keys: ClassVar[tuple[str, ...]] = ("instruction", "input", "output", "system")

    def __post_init__(self) -> None:
        super().__post_init__()
        if {"instruction", "input"} - set(_PLACE.findall(self.with_input)):
            raise ValueError("with_input needs {instruction} and {input} in it; add them")

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        asked, given = text(row, self.instruction, at), text(row, self.input, at, needed=False)
        answer = Message("assistant", text(row, self.output, at))
        system = text(row, self.system, at, needed=False)
        if not asked:
            return Dropped(at.id, "empty prompt", at.text)
        if given and given.lower() != "<noinput>":
            parts = {"instruction": asked, "input": given}
            # in one pass: an instruction may hold "{input}" itself
            prompt = _PLACE.sub(lambda match: parts[match[1]], self.with_input)
        else:
            prompt = asked
        return checked_chat(with_system(system, (Message("user", prompt), answer)), at, {})
