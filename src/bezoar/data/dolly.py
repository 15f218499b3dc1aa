"""databricks-dolly-15k and files in its schema."""

from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped
from bezoar.data.rows import RowOrigin, text
from bezoar.data.source import Source, chat
from bezoar.io import Row


@dataclass(frozen=True)
class Dolly(Source[Chat]):
    """Rows of instruction, context, response, category; a context follows the instruction after an
    empty line.

    `meta` holds the category and whether there was a context. With `category` rows of the others
    are dropped.
    """

    category: str = ""
    kind: Literal["dolly"] = "dolly"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        """One row."""
        instruction, context = text(row, "instruction", at), text(row, "context", at, needed=False)
        meta = {"category": text(row, "category", at, needed=False), "has_context": bool(context)}
        if self.category and meta["category"] != self.category:
            return Dropped(at.id, "other category", at.text)
        prompt = f"{instruction}\n\n{context}" if instruction and context else instruction
        return chat(prompt, text(row, "response", at), at, meta)
