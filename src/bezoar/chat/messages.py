"""Messages, the tools that are offered in them and the calls of those tools."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from bezoar.errors import DataError, brief
from bezoar.io import Row, canonical

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __hash__(self) -> int:
        return hash(canonical(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """The declaration in OpenAI's form."""
        inner = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": inner}

    @classmethod
    def from_json(cls, value: Any) -> "Tool":
        """From OpenAI's form, or from the table inside it. DataError for anything else."""
        inner = value.get("function", value) if isinstance(value, dict) else None
        if not isinstance(inner, dict):
            raise DataError("a tool is not an object with name, description and parameters.")
        name, description = inner.get("name"), inner.get("description") or ""
        parameters = inner.get("parameters")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a tool has no name: {brief(json.dumps(inner), 120)}.")
        if not isinstance(description, str):
            raise DataError(f"tool {name}: the description is not text.")
        # a function without parameters is declared in either way
        if parameters is None or parameters == {}:
            return cls(name, description)
        if not isinstance(parameters, dict):
            raise DataError(f"tool {name}: the parameters are not a JSON Schema (an object).")
        return cls(name, description, parameters)


@dataclass(frozen=True)
class ToolCall:
    """A call of a named function with JSON arguments."""

    name: str
    arguments: dict[str, Any]

    def __hash__(self) -> int:
        # prompts are keys of tables, and a dict by itself has no hash
        return hash((self.name, canonical(self.arguments)))


@dataclass(frozen=True)
class Message:
    """One turn; `tools`, of a system message alone, are those that the model may call.

    The result of a call is a message of the role `tool`, its content as the function gave it; the
    results of several calls follow in the order of the calls.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[Tool, ...] = ()


Messages = tuple[Message, ...]


def with_tools(messages: Messages, tools: Sequence[Tool]) -> Messages:
    """The messages with `tools` offered, on a system message of no words where there is none."""
    if messages and messages[0].role == "system":
        return (replace(messages[0], tools=tuple(tools)), *messages[1:])
    return (Message("system", "", tools=tuple(tools)), *messages) if tools else messages


def offered(messages: Messages) -> tuple[Tool, ...]:
    """The tools that the model may call in a conversation."""
    return messages[0].tools if messages and messages[0].role == "system" else ()


def to_openai(messages: Messages) -> list[Row]:
    """Messages as templates of transformers read them: tables, the arguments of calls too.

    The tools that are `offered` stand beside them; a system message of no words is left out then.
    """
    rows = []
    for message in messages:
        # most templates would write the empty words as a turn
        if message.tools and not message.content:
            continue
        row: Row = {"role": message.role, "content": message.content}
        if message.tool_calls:
            row["tool_calls"] = [
                {"type": "function", "function": vars(c)} for c in message.tool_calls
            ]
        rows.append(row)
    return rows


def to_rows(messages: Messages) -> list[Row]:
    """Messages as rows of texts; `tools` stands only where there are some."""
    rows = []
    for message in messages:
        calls = [vars(call) for call in message.tool_calls]
        # as text: arguments differ from call to call, and a Parquet column has one type
        text = json.dumps(calls) if calls else ""
        row = {"role": message.role, "content": message.content, "tool_calls": text}
        if message.tools:
            row["tools"] = json.dumps([tool.to_json() for tool in message.tools])
        rows.append(row)
    return rows


def from_rows(rows: list[Row]) -> Messages:
    """The inverse of `to_rows`. TypeError, ValueError or LookupError for other rows."""
    messages = []
    for row in rows:
        if not isinstance(row["content"], str) or row["role"] not in get_args(Role):
            raise TypeError("a message has no text or no role")
        calls = tuple(ToolCall(**call) for call in json.loads(row["tool_calls"] or "[]"))
        tools = tuple(Tool(**tool["function"]) for tool in json.loads(row.get("tools") or "[]"))
        messages.append(Message(row["role"], row["content"], calls, tools))
    return tuple(messages)
