"""Tool calls as the text that a model writes, in the form of the Hermes models, and back.

Source: NousResearch/Hermes-Function-Calling; read by the rules of vLLM's hermes parser
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from bezoar.chat.messages import Message, ToolCall
from bezoar.strict_json import NotJSONError, parse

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# a closing tag in a string would end the call; in JSON a slash may be escaped
CLOSE_IN_JSON = r"<\/tool_call>"
# a last call that is not closed counts too
_CALL = re.compile(f"{OPEN}(.*?){CLOSE}|{OPEN}(.*)", re.DOTALL)

Fault = Literal["bad JSON", "no object", "no name", "arguments are no object"]


@dataclass(frozen=True)
class BadCall:
    """A call that cannot be made: what stands between its tags, and what is wrong with it."""

    text: str
    fault: Fault
    detail: str = ""


def write_answer(message: Message) -> str:
    """What the model is to write: the content, then a block for each call, the name first."""
    blocks = [write_call(call) for call in message.tool_calls]
    return "\n".join([message.content, *blocks] if message.content else blocks)


def whole_text(message: Message) -> str:
    """All that a model reads of a message: the content, its calls and the tools that it offers."""
    # lengths and prices come from it, and what a judge sees
    declared = [json.dumps(tool.to_json(), ensure_ascii=False) for tool in message.tools]
    return "\n".join(filter(None, (write_answer(message), *declared)))


def write_call(call: ToolCall) -> str:
    """`<tool_call>`, a line of JSON and `</tool_call>`."""
    # as the filter tojson of transformers writes it, whose templates must give the same text
    name, arguments = (json.dumps(v, ensure_ascii=False) for v in (call.name, call.arguments))
    inner = f'{{"name": {name}, "arguments": {arguments}}}'.replace(CLOSE, CLOSE_IN_JSON)
    return f"{OPEN}\n{inner}\n{CLOSE}"


def read_answer(text: str) -> Message:
    """The message that an answer is: the content before the first call, and the calls.

    Where any call is bad, all of it is content, and there are no calls. What stands between and
    behind calls is left out.
    """
    calls = read_calls(text)
    good = tuple(call for call in calls if isinstance(call, ToolCall))
    if not calls or len(good) < len(calls):
        return Message("assistant", text)
    return Message("assistant", text[: text.index(OPEN)].removesuffix("\n"), good)


def read_calls(text: str) -> list[ToolCall | BadCall]:
    """Every call in an answer, in order, also those that cannot be made."""
    return [
        _read_call(found[1] if found[2] is None else found[2]) for found in _CALL.finditer(text)
    ]


def _read_call(text: str) -> ToolCall | BadCall:
    try:
        value: Any = parse(text)
    except NotJSONError as error:
        return BadCall(text, "bad JSON", str(error).partition(";")[0])
    if not isinstance(value, dict):
        return BadCall(text, "no object", f"a JSON {type(value).__name__}")
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not name:
        return BadCall(text, "no name")
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__ if "arguments" in value else "none"
        return BadCall(text, "arguments are no object", kind)
    return ToolCall(name, arguments)
