"""ShareGPT conversations, with or without tools."""

from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped
from bezoar.data.rows import RowOrigin, column, parse_json, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_chat, messages_in, tools_in, with_system
from bezoar.io import Row


@dataclass(frozen=True)
class ShareGPT(Source[Chat]):
    """Conversations of {from, value} turns: system, human, gpt, function_call, observation.

    Beside the column conversations there may be `system` and `tools` (a JSON list, or that as
    text), which are offered in the system message. Neighbouring function calls become one turn. The
    form of the Hermes models is read as well: `<tools>` in the system message, `<tool_call>` in
    answers and `<tool_response>` of the tool, in JSON or as Python writes it. Conversations that do
    not alternate or end with no answer, and those with bad JSON, calls of tools that are not
    declared or results without a call, are dropped and counted.

    Example: {kind: sharegpt, path: llamafactory/glaive_toolcall_en}
    """

    kind: Literal["sharegpt"] = "sharegpt"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        turns = column(row, "conversations", at)
        if isinstance(turns, str):
            turns = parse_json(turns, at, "conversations")
        messages = messages_in(turns, at, who="from", what="value")
        messages = with_system(text(row, "system", at, needed=False), messages)
        return checked_chat(messages, at, {}, tools_in(row, at))
