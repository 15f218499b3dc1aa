"""What makes a conversation with tools wrong: calls that do not fit, answers without the result."""

import json
from collections.abc import Iterator
from typing import Any

from bezoar.chat.tool_calls import read_answer, write_answer
from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.verdicts.tool_call import schema_faults


def call_fault(call: ToolCall, tools: tuple[Tool, ...]) -> str:
    """Why a call does not fit the tools that are offered; "" if it does."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"there is no function {call.name}"
    wrong = schema_faults(call.arguments, tool.parameters)
    return f"{call.name}: {wrong[0]}" if wrong else ""


def chat_fault(chat: Chat) -> str:
    """Why a conversation is wrong, in a few words that are counted; "" if it is right."""
    tools = chat.messages[0].tools
    for message in chat.messages:
        if message.role != "assistant":
            continue
        back = read_answer(write_answer(message))
        if (back.content, back.tool_calls) != (message.content, message.tool_calls):
            return "cannot be read back"
        if any(call_fault(call, tools) for call in message.tool_calls):
            return "does not fit the schema"
        if not message.content and not message.tool_calls:
            return "empty answer"
    return next((fault for fault in map(_unused, _answered_results(chat.messages)) if fault), "")


def _answered_results(messages: tuple[Message, ...]) -> Iterator[tuple[list[Any], str]]:
    """The results that each answer follows on, and the answer."""
    results: list[Any] = []
    for message in messages:
        if message.role == "tool":
            results.append(json.loads(message.content))
        elif results:
            yield results, message.content
            results = []


def _unused(answered: tuple[list[Any], str]) -> str:
    # several calls are answered together, and each result has to be there
    results, text = answered
    return "" if all(uses_result(result, text) for result in results) else "result not used"


def uses_result(result: Any, answer: str) -> bool:
    """Whether an answer holds a value of a result: a text, a number, or an item of a list."""
    if isinstance(result, dict):
        return any(uses_result(value, answer) for value in result.values())
    if isinstance(result, list):
        return all(uses_result(value, answer) for value in result)
    return str(result).lower() in answer.lower()
