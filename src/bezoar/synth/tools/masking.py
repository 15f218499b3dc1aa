"""Names of functions and parameters replaced by random ones, so that descriptions are read.

Source: Hammer, arXiv 2410.04587
"""

import random
import string
from collections.abc import Iterator
from dataclasses import replace

from bezoar.chat.types import Message, Messages, Tool, ToolCall


def masked(messages: Messages, rng: random.Random) -> Messages:
    """The conversation with other names in its declarations and calls, the same throughout."""
    # what is inside an object keeps its names: Hammer masks functions and their parameters
    names = _new_names(rng)
    functions: dict[str, str] = {}
    parameters: dict[tuple[str, str], str] = {}
    for tool in messages[0].tools:
        functions[tool.name] = next(names)
        for name in tool.parameters.get("properties", {}):
            parameters[tool.name, name] = next(names)

    def of_tool(tool: Tool) -> Tool:
        table, of = tool.parameters, tool.name
        own, needed = table.get("properties", {}), table.get("required", [])
        properties = {parameters[of, name]: value for name, value in own.items()}
        required = [parameters[of, name] for name in needed]
        table = {**table, "properties": properties, "required": required}
        return replace(tool, name=functions[of], parameters=table)

    def of_call(call: ToolCall) -> ToolCall:
        arguments = {parameters[call.name, name]: v for name, v in call.arguments.items()}
        return ToolCall(functions[call.name], arguments)

    def of_message(message: Message) -> Message:
        calls, tools = tuple(map(of_call, message.tool_calls)), tuple(map(of_tool, message.tools))
        return replace(message, tool_calls=calls, tools=tools)

    return tuple(map(of_message, messages))


def _new_names(rng: random.Random) -> Iterator[str]:
    """Names without a meaning, each once: `kqv_tuz`, `wopa3`, `zif.rul`."""
    seen = set()
    while True:
        parts = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 5)))]
        # as many forms as real names have: one word, snake case, dotted, with a digit
        if rng.random() < 0.6:
            parts.append("".join(rng.choices(string.ascii_lowercase + "123456789", k=3)))
        name = rng.choice("__.").join(parts)
        if name not in seen:
            seen.add(name)
            yield name
