"""Any table of conversations, of prompts with answers, or of pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from bezoar.chat.types import Chat, Comparison, Dropped, Message
from bezoar.data.locate import DataFile, is_hub_id
from bezoar.data.rows import Placed, RowOrigin, csv_rows, parse_json, read_file, suffix, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, messages_in, pair_in, prompt_in, tools_in, with_system
from bezoar.errors import DataError
from bezoar.io import Row


@dataclass(frozen=True)
class Table(Source[Any]):
    """What tables share: the columns that make a row a chat or a pair."""

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
    system: str = "system"
    """Name of the column of system messages, which a row may lack."""
    shape = None
    passed: ClassVar[frozenset[str]] = frozenset()
    column_keys: ClassVar[tuple[str, ...]] = (
        *("messages", "prompt", "response", "chosen", "rejected", "system"),
    )

    def window(self) -> Iterator[Any]:
        """The rows that are taken, all of them chats or all of them comparisons."""
        first = None
        for item in super().window():
            if not isinstance(item, Dropped):
                first = first or item
                # the stage's file has one set of columns
                if type(item) is not type(first):
                    fault = f"this row and {first.id} are not both chats or both comparisons"
                    raise DataError(f"{item.id}: {fault}; split the file.")
            yield item

    def read(self, row: Row, at: RowOrigin) -> Chat | Comparison | Dropped:
        meta, tools = _meta(row.get("meta"), at), tools_in(row, at)
        system = text(row, self.system, at, needed=False)
        if "iterations" in row:
            # what `bezoar revise` writes beside the last answer
            row.get("iterations"), row.get("first")
        # pairs first: they may hold a column of messages as well
        if self.chosen in row or self.rejected in row:
            sides = (self.prompt, self.chosen, self.rejected)
            return pair_in(row, at, sides, meta, system=system, tools=tools)
        if self.messages in row:
            messages = messages_in(row[self.messages], at)
        elif self.prompt in row:
            answer = Message("assistant", text(row, self.response, at))
            messages = (*prompt_in(row, self.prompt, at), answer)
        else:
            needed = f"{self.messages!r}, {self.prompt!r}, {self.chosen!r}"
            names = ", ".join(row) or "none"
            raise at.wrong(f"the row has none of the columns {needed}; it has {names}.")
        return checked_chat(with_system(system, messages), at, meta, tools)


@dataclass(frozen=True)
class Columns(Table):
    """Chats or pairs by column, from JSON Lines or JSON (`jsonl`), Parquet or a Hub dataset.

    A row with `chosen` and `rejected` is a pair, whose `prompt` may be in both of them; one with
    `messages` is a chat; else it has `prompt` and `response`. Each is a text or a list of {role,
    content}. A column `meta` (an object or JSON text) is kept, so that a stage's rows.parquet can
    be read back. A column `tools` (a list of functions, or that as JSON text) is offered in the
    system message; calls are `tool_calls` of OpenAI's form, their arguments a table or JSON text,
    and results are ordered by `tool_call_id`. Any other text is an error: name its
    column or ignore it.

    Example: {kind: jsonl, path: rows.jsonl, prompt: question, response: answer}
    """

    kind: Literal["jsonl", "parquet", "hub"] = "jsonl"

    def __post_init__(self) -> None:
        super().__post_init__()
        fault = f"kind {self.kind} does not fit the path {self.path!r}"
        if (self.kind == "hub") != is_hub_id(self.path):
            raise ValueError(f"{fault}; use hub for owner/name, else jsonl or parquet")
        if self.kind == "jsonl" and suffix(Path(self.path)) == ".csv":
            raise ValueError(f"{fault}; use kind csv")
        if self.kind == "parquet" and Path(self.path).suffix not in (".parquet", ""):
            raise ValueError(f"{fault}; use jsonl")


@dataclass(frozen=True)
class CSV(Table):
    """Chats or pairs by column, from a CSV or TSV file whose first line names the columns.

    The columns are those of the kind jsonl. A cell with the delimiter, a quote or a line end in it
    stands in double quotes, a quote within it twice; a row may go over several lines.

    Example: {kind: csv, path: rows.csv, prompt: question, response: answer, delimiter: ";"}
    """

    delimiter: str = ""
    """What stands between cells, one character; "" is a tab in a `.tsv` file, else a comma."""
    encoding: str = "utf-8"
    """The file's encoding, such as cp1252 or utf-16."""
    kind: Literal["csv"] = "csv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_hub_id(self.path) or suffix(Path(self.path)) in (".jsonl", ".json", ".parquet"):
            fault = f"kind csv does not fit the path {self.path!r}"
            raise ValueError(f"{fault}; use jsonl, parquet or hub")
        if len(self.delimiter) > 1 or self.delimiter in ('"', "\n", "\r"):
            fix = 'write a comma, ";", "|" or "\\t" in double quotes'
            raise ValueError(f"delimiter is one character between cells; {fix}")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):
            fix = "write utf-8, cp1252, latin-1 or utf-16"
            raise ValueError(f"no encoding is named {self.encoding!r}; {fix}") from None

    def _rows(self, file: DataFile) -> Iterator[Placed]:
        if file.path is None or suffix(file.path) in (".jsonl", ".json", ".parquet"):
            raise DataError(f"{file.path}: this is no CSV file; read it with another kind.")
        reader = partial(csv_rows, delimiter=self.delimiter, encoding=self.encoding)
        return read_file(file.path, file.label, self.limits, reader)


def _meta(value: Any, at: RowOrigin) -> dict[str, Any]:
    # stages write it as JSON text, because a Parquet column has one type; people write objects
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_json(value, at, "meta")
    if not isinstance(value, dict):
        raise at.wrong_type("meta", value, "an object")
    return dict(value)
