"""Any table of conversations, of prompts with answers, or of pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Comparison, Dropped, Filtered, Message
from bezoar.data.locate import is_hub_id
from bezoar.data.rows import RowOrigin, parse_column, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, messages_in, pair_in
from bezoar.errors import DataError
from bezoar.io import Row


@dataclass(frozen=True)
class Columns(Source[Any]):
    """JSON Lines, JSON, Parquet or a Hub dataset, by the columns that the first row has.

    `chosen` with `rejected` make a comparison, with `prompt` where they do not hold it themselves;
    else `messages` make a chat; else `prompt` with `response`. The fields name these columns.
    Texts, or lists of {role, content}. A `meta` column (an object or JSON text) is kept, so a
    stage's rows.parquet can be read back.
    """

    messages: str = "messages"
    prompt: str = "prompt"
    response: str = "response"
    chosen: str = "chosen"
    rejected: str = "rejected"
    kind: Literal["jsonl", "parquet", "hub"] = "jsonl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "hub") != is_hub_id(self.path):
            raise ValueError(
                f"kind {self.kind} does not fit the path {self.path!r}; use hub for owner/name,"
                " else jsonl or parquet"
            )
        if self.kind == "parquet" and Path(self.path).suffix not in (".parquet", ""):
            raise ValueError(f"kind parquet does not fit the path {self.path!r}; use jsonl")

    def load(self) -> Filtered[Any]:
        """The rows that are taken, chats alone or comparisons alone, and those that were dropped on
        the way."""
        sifted = super().load()
        first = next(iter(sifted.rows), None)
        for item in sifted.rows:
            if type(item) is not type(first):
                raise DataError(
                    f"{item.id}: this row and {sifted.rows[0].id} are not both chats or both"
                    " comparisons; split the file."
                )
        return sifted

    def read(self, row: Row, at: RowOrigin) -> Chat | Comparison | Dropped:
        """One row."""
        meta = _meta(row.get("meta"), at)
        if self.chosen in row or self.rejected in row:
            return pair_in(row, at, (self.prompt, self.chosen, self.rejected), meta)
        if self.messages in row:
            return checked_chat(messages_in(row[self.messages], at), at, meta)
        if self.prompt not in row:
            raise at.wrong(
                f"the row has none of the columns {self.messages!r}, {self.prompt!r},"
                f" {self.chosen!r}; it has {', '.join(row) or 'none'}."
            )
        if isinstance(row[self.prompt], list):
            prompt = messages_in(row[self.prompt], at)
        else:
            prompt = (Message("user", text(row, self.prompt, at)),)
        return checked_chat((*prompt, Message("assistant", text(row, self.response, at))), at, meta)


def _meta(value: Any, at: RowOrigin) -> dict[str, Any]:
    """What a `meta` column holds: an object, or the JSON text of one; nothing where it is null or
    empty."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_column(value, "meta", at)
    if not isinstance(value, dict):
        raise at.wrong(
            f"the column 'meta' is a {type(value).__name__}, not an object; write one, or rename"
            " the column."
        )
    return dict(value)
