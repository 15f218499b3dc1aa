"""databricks-dolly-15k and files in its schema."""

from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped
from bezoar.data.rows import RowOrigin, text
from bezoar.data.source import Source, chat
from bezoar.io import Row


@dataclass(frozen=True)
class Dolly(Source[Chat]):
    """Instructions with answers: columns instruction, context, response, category.

    A context follows the instruction after an empty line; `meta` holds the category and whether
    there was a context.

    Example: {kind: dolly, path: databricks/databricks-dolly-15k, category: open_qa, limit: 100}
    """

    category: str = ""
    """Keep only rows of this category; "" keeps all."""
    kind: Literal["dolly"] = "dolly"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        instruction, context = text(row, "instruction", at), text(row, "context", at, needed=False)
        meta = {"category": text(row, "category", at, needed=False), "has_context": bool(context)}
        if self.category and meta["category"] != self.category:
            return Dropped(at.id, "other category", at.text)
        prompt = f"{instruction}\n\n{context}" if instruction and context else instruction
        return chat(prompt, text(row, "response", at), at, meta)
