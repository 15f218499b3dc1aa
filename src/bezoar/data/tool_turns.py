"""Tools, their calls and results in the forms of others: all become parts of messages.

The forms are those of OpenAI, of ShareGPT and of the Hermes models, in which tools, calls and
results are text with tags.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bezoar.chat.messages import Message, Messages, Tool, ToolCall, offered, with_tools
from bezoar.chat.tool_calls import OPEN
from bezoar.errors import DataError
from bezoar.strict_json import NotJSONError, parse

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RESULT = re.compile(r"<tool_response>(.*?)(?:</tool_response>|\Z)", re.DOTALL)
# how to call stands around the tools, in words that the template writes by itself
_BEFORE_TOOLS = re.compile(
    r"(You are a function calling AI model|You are provided with function signatures|# Tools\b).*",
    re.DOTALL,
)
_BEHIND_TOOLS = re.compile(r"(Use the following pydantic|For each function call).*", re.DOTALL)


class MalformedError(Exception):
    """Why a row is dropped, in the few words that are counted, and what people look at."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def structured(messages: Messages, tools: Sequence[Tool] = ()) -> Messages:
    """The messages with `tools`, or those that the system message holds as text, offered; calls and
    results that are text become parts. MalformedError for what no conversation with tools is."""
    start, found = _system(messages)
    messages = (*start, *messages[1:]) if start else messages
    # the column says it in JSON, whatever the text says
    tools = tools or found or offered(messages)
    if not (tools or any(m.role == "tool" or m.tool_calls for m in messages)):
        return messages
    messages = tuple(part for message in messages for part in _parts(message))
    _check(messages, {tool.name for tool in tools})
    return with_tools(messages, tools)


def tools_in_list(value: list[Any]) -> tuple[Tool, ...]:
    """A list of declarations as tools."""
    try:
        return tuple(Tool.from_json(item) for item in value)
    except DataError as error:
        raise MalformedError("bad tool", str(error)) from None


def calls_in(value: Any) -> tuple[ToolCall, ...]:
    """One call or a list of them: {name, arguments}, also in OpenAI's {function: ...}; arguments
    may be JSON text."""
    calls = []
    for item in value if isinstance(value, list) else [value]:
        call = item.get("function", item) if isinstance(item, dict) else {}
        name, arguments = None, None
        if isinstance(call, dict):
            name, arguments = call.get("name"), call.get("arguments")
        if isinstance(arguments, str) and arguments:
            arguments = json_in(arguments, "bad JSON in a call")
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            raise MalformedError("bad call", "a call needs a name and arguments (an object)")
        calls.append(ToolCall(name, arguments))
    return tuple(calls)


def json_in(text: str, reason: str) -> Any:
    """The JSON value of a text, which older data writes as Python does."""
    try:
        return parse(text)
    except NotJSONError as error:
        fault = str(error)
    # literals alone: nothing of a row is run
    try:
        with warnings.catch_warnings(action="ignore"):
            value = ast.literal_eval(text.strip())
        return parse(json.dumps(value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise MalformedError(reason, fault) from None


def in_order(messages: Sequence[Message], ids: Sequence[Sequence[str]]) -> list[Message]:
    """Results in the order of the calls that they answer; `ids` are those of each message's calls,
    or that of the call which it answers."""
    ordered = list(messages)
    for start, message in enumerate(messages):
        if not message.tool_calls or not all(ids[start]):
            continue
        end = start + 1
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        answered = [ids[i][0] if ids[i] else "" for i in range(start + 1, end)]
        # a server may answer calls in the order in which they end
        if lost := [known for known in answered if known and known not in ids[start]]:
            raise MalformedError("result without a call", f"no call before it has the id {lost[0]}")
        if all(answered):
            places = sorted(range(start + 1, end), key=lambda i: ids[start].index(ids[i][0]))
            ordered[start + 1 : end] = [messages[i] for i in places]
    return ordered


def _system(messages: Messages) -> tuple[Messages, tuple[Tool, ...]]:
    """A system message without the tools that its text declares, and these."""
    if not messages or messages[0].role != "system":
        return (), ()
    text = messages[0].content
    for found in _TOOLS.finditer(text):
        # how to call is told with empty tags
        if found[1].strip(" \n\t,.")[:1] in ("[", "{"):
            before = _BEFORE_TOOLS.sub("", text[: found.start()]).strip()
            behind = _BEHIND_TOOLS.sub("", text[found.end() :]).strip()
            words = "\n\n".join(part for part in (before, behind) if part)
            message = replace(messages[0], content=words)
            return ((message,) if words else (Message("system", ""),)), _declared(found[1].strip())
    return (), ()


def _declared(text: str) -> tuple[Tool, ...]:
    """Tools as a list, or one on each line."""
    reason = "bad JSON in the tools"
    if text.startswith("["):
        return tools_in_list(json_in(text, reason))
    try:
        return tools_in_list([parse(text)])
    except NotJSONError:
        lines = [line for line in text.split("\n") if line.strip()]
        return tools_in_list([json_in(line, reason) for line in lines])


def _parts(message: Message) -> Iterator[Message]:
    text = message.content
    if message.role == "tool" and _RESULT.search(text):
        yield from (Message("tool", result.strip()) for result in _RESULT.findall(text))
    elif message.role == "assistant" and not message.tool_calls and OPEN in text:
        before, _, _ = text.partition(OPEN)
        # words that no message could hold would be lost
        if _CALL.sub("", text[len(before) :]).strip():
            raise MalformedError("words behind a call", text[-200:])
        values = [json_in(body, "bad JSON in a call") for body in _CALL.findall(text)]
        yield Message("assistant", before.strip(), calls_in(values))
    else:
        yield message


def _check(messages: Messages, declared: set[str]) -> None:
    # several calls may share one result, but no result stands for itself
    num_open = 0
    for message in messages:
        unknown = [call.name for call in message.tool_calls if call.name not in declared]
        if unknown:
            raise MalformedError("call of a tool that is not declared", unknown[0])
        num_open = len(message.tool_calls) or (num_open if message.role == "tool" else 0)
        if message.role == "tool":
            if not num_open:
                raise MalformedError("result without a call", message.content[:200])
            num_open -= 1
