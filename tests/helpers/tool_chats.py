"""Conversations with tools, made up by a seed: every turn that the form of Hermes has."""

from random import Random
from typing import Any

from bezoar.chat.messages import with_tools
from bezoar.chat.types import Message, Messages, Tool, ToolCall

WORDS = (
    "Why is it so?",
    "a \"quoted\" 'word'",
    "naïve 日本 😀 e\u0301",
    "one\n\ntwo",
    "C:\\new \\n",
    "{{ x }} {% y %}",
    "</b> & <tag>",
    "```py\nx = {'a': [1]}\n```",
    "1.5e-4",
)


def tool_chats(num: int = 50, seed: int = 11) -> list[Messages]:
    """Chats with one call and several, results in one turn and in several, words before a call and
    none, system messages, reasoning, and some without tools."""
    random = Random(seed)
    return [_chat(random, number) for number in range(num)]


def _chat(random: Random, number: int) -> Messages:
    tools = [_tool(random, i) for i in range(number % 5)]
    messages: Messages = (Message("system", random.choice(WORDS)),) if random.random() < 0.5 else ()
    for _ in range(random.randint(1, 3)):
        messages += (Message("user", random.choice(WORDS)),)
        for _ in range(random.randint(0, 2) if tools else 0):
            calls = tuple(_call(random, tools) for _ in range(random.randint(1, 3)))
            messages += (Message("assistant", _before(random), calls),)
            messages += tuple(Message("tool", _result(random)) for _ in calls)
        messages += (Message("assistant", f"{_before(random)}\n{random.choice(WORDS)}".lstrip()),)
    return with_tools(messages, tools)


def _before(random: Random) -> str:
    thought = f"<think>\n{random.choice(WORDS)}\n</think>"
    return random.choice(["", "", random.choice(WORDS), thought])


def _tool(random: Random, number: int) -> Tool:
    kinds = ("string", "integer", ["number", "null"], "array", "object")
    fields = {f"key {i} é": {"type": random.choice(kinds)} for i in range(random.randint(0, 3))}
    schema = {"type": "object", "properties": fields, "required": list(fields)[:1]}
    name, text = f"find_{number}", random.choice(("", *WORDS))
    return Tool(name, text, schema) if fields else Tool(name, text)


def _call(random: Random, tools: list[Tool]) -> ToolCall:
    tool = random.choice(tools)
    return ToolCall(tool.name, {name: _value(random) for name in tool.parameters["properties"]})


def _value(random: Random) -> Any:
    plain = (*WORDS, "</tool_call>", "", 0, -1.5, True, None)
    deep: tuple[Any, ...] = ([], [1, {"a": [random.choice(plain)]}], {"b c": {}, "é": None})
    return random.choice([*plain, *deep])


def _result(random: Random) -> str:
    return random.choice([*WORDS, '{"name": "find", "content": {"é": [1, null]}}', ""])
