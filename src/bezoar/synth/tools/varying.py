"""Declarations that differ from row to row, so that they are read and not known by heart."""

import random
from dataclasses import replace

from bezoar.chat.types import Message, Messages, Tool, ToolCall

_LEFT_OUT = 0.3


def varied(messages: Messages, rng: random.Random, *, whole: bool = False) -> Messages:
    """The conversation with some optional parameters that no call uses left out (unless `whole`),
    and the others in another order; calls keep to that order."""
    used = {
        (c.name, key) for message in messages for c in message.tool_calls for key in c.arguments
    }
    orders: dict[str, list[str]] = {}

    def of_tool(tool: Tool) -> Tool:
        table = tool.parameters
        names = [
            name
            for name in table["properties"]
            if whole
            or name in table["required"]
            or (tool.name, name) in used
            or rng.random() >= _LEFT_OUT
        ]
        # half stay as they are declared: people put what matters first
        if rng.random() < 0.5:
            rng.shuffle(names)
        orders[tool.name] = names
        properties = {name: table["properties"][name] for name in names}
        required = [name for name in names if name in table["required"]]
        return replace(tool, parameters={**table, "properties": properties, "required": required})

    def of_call(call: ToolCall) -> ToolCall:
        names = [name for name in orders[call.name] if name in call.arguments]
        return ToolCall(call.name, {name: call.arguments[name] for name in names})

    def of_message(message: Message) -> Message:
        tools = tuple(map(of_tool, message.tools))
        return replace(message, tools=tools, tool_calls=tuple(map(of_call, message.tool_calls)))

    # the system message with the declarations comes first
    return tuple([of_message(message) for message in messages])
