"""Any table of conversations, of prompts with answers, or of pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Comparison, Dropped, Filtered, Message
from bezoar.data.locate import is_hub_id
from bezoar.data.rows import RowOrigin, parse_json, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, messages_in, pair_in, prompt_in
from bezoar.errors import DataError
from bezoar.io import Row


@dataclass(frozen=True)
class Columns(Source[Any]):
    """Chats or pairs by column, from JSON Lines or JSON (`jsonl`), Parquet or a Hub dataset.

    A row with `chosen` and `rejected` is a pair, whose `prompt` may be in both of them; one with
    `messages` is a chat; else it has `prompt` and `response`. Each is a text or a list of {role,
    content}. A column `meta` (an object or JSON text) is kept, so that a stage's rows.parquet can
    be read back.

    Example: {kind: jsonl, path: rows.jsonl, prompt: question, response: answer}
    """

    messages: str = "messages"
    """Name of the column of whole conversations."""
    prompt: str = "prompt"
    """Name of the column of prompts."""
    response: str = "response"
    """Name of the column of answers."""
    chosen: str = "chosen"
    """Name of the column of preferred answers."""
    rejected: str = "rejected"
    """Name of the column of the other answers."""
    kind: Literal["jsonl", "parquet", "hub"] = "jsonl"
    shape = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fault = f"kind {self.kind} does not fit the path {self.path!r}"
        if (self.kind == "hub") != is_hub_id(self.path):
            raise ValueError(f"{fault}; use hub for owner/name, else jsonl or parquet")
        if self.kind == "parquet" and Path(self.path).suffix not in (".parquet", ""):
            raise ValueError(f"{fault}; use jsonl")

    def window(self) -> Filtered[Any]:
        """The rows that are taken, all of them chats or all of them comparisons."""
        filtered = super().window()
        # the stage's file has one set of columns
        for item in filtered.rows:
            first = filtered.rows[0]
            if type(item) is not type(first):
                fault = f"this row and {first.id} are not both chats or both comparisons"
                raise DataError(f"{item.id}: {fault}; split the file.")
        return filtered

    def read(self, row: Row, at: RowOrigin) -> Chat | Comparison | Dropped:
        meta = _meta(row.get("meta"), at)
        # pairs first: they may hold a column of messages as well
        if self.chosen in row or self.rejected in row:
            return pair_in(row, at, (self.prompt, self.chosen, self.rejected), meta)
        if self.messages in row:
            return checked_chat(messages_in(row[self.messages], at), at, meta)
        if self.prompt not in row:
            needed = f"{self.messages!r}, {self.prompt!r}, {self.chosen!r}"
            names = ", ".join(row) or "none"
            raise at.wrong(f"the row has none of the columns {needed}; it has {names}.")
        prompt = prompt_in(row, self.prompt, at)
        answer = Message("assistant", text(row, self.response, at))
        return checked_chat((*prompt, answer), at, meta)


def _meta(value: Any, at: RowOrigin) -> dict[str, Any]:
    # stages write it as JSON text, because a Parquet column has one type; people write objects
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_json(value, at, "meta")
    if not isinstance(value, dict):
        raise at.wrong_type("meta", value, "an object")
    return dict(value)
