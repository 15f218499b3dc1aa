"""ShareGPT conversations, with or without tools."""

from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped, Message
from bezoar.data.rows import RowOrigin, column, parse_column, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, messages_in
from bezoar.io import Row


@dataclass(frozen=True)
class ShareGPT(Source[Chat]):
    """A column conversations of {from, value} turns: system, human, gpt, function_call,
    observation.

    `system` and `tools` (a JSON list, or that as text) may stand beside it; tools go to
    `meta["tools"]`. Neighbouring function calls are one turn. Conversations that do not alternate
    or do not end with an answer are dropped and counted.
    """

    kind: Literal["sharegpt"] = "sharegpt"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        """One conversation."""
        turns = column(row, "conversations", at)
        turns = parse_column(turns, "conversations", at) if isinstance(turns, str) else turns
        messages = messages_in(turns, at, who="from", what="value")
        if system := text(row, "system", at, needed=False):
            messages = (Message("system", system), *messages)
        tools = row.get("tools") or []
        tools = parse_column(tools, "tools", at) if isinstance(tools, str) else tools
        if not isinstance(tools, list):
            raise at.wrong("the column 'tools' is not a list of functions; write a JSON list.")
        return checked_chat(messages, at, {"tools": tools} if tools else {})
