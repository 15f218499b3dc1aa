"""Tools in a conversation in the terminal: calls are shown and executed, and their results go back.

Calls are executed by functions that ship with bezoar, or a person says what they give: nothing that
a file or a model wrote is run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.chat.messages import offered
from bezoar.chat.tool_calls import BadCall, read_answer, read_calls
from bezoar.chat.types import Message, Messages, Tool, ToolCall
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.references import unknown
from bezoar.synth.tools.catalogue import SHIPPED, Function, read_catalogue, read_declarations
from bezoar.synth.tools.check import call_fault
from bezoar.terminal import plain

MOST_ROUNDS = 5
"""Of calls before the user speaks again, as in the agent loop of the Hermes models."""


@dataclass(frozen=True)
class Toolbox:
    """The tools of a conversation, and the functions that can be run by name."""

    tools: tuple[Tool, ...] = ()
    functions: Mapping[str, Function] = field(default_factory=dict)


def open_tools(ref: str) -> Toolbox:
    """The tools of `FILE`, a JSON list or JSON Lines of OpenAI's declarations, or of the catalogue
    `bezoar:tools.jsonl`; `FILE#NAME,NAME` are some of them. RecipeError or DataError."""
    file, _, names = ref.partition("#")
    tools, own = read_declarations(locate_file(file, Path(), "--tools"))
    known = {tool.name: tool for tool in tools}
    # all tools of a catalogue do not fit into the context of a small model
    wanted = [name.strip() for name in names.split(",")] if names else list(known)
    for name in wanted:
        if name not in known:
            raise RecipeError(f"--tools {ref}: {unknown(name, 'tool', known)}")
    shipped = {f.name: f for f in read_catalogue(locate_file(SHIPPED, Path(), "--tools"))}
    # what stands in the file goes before what ships: its stubs may be other functions of one name
    return Toolbox(tuple(known[name] for name in wanted), {**shipped, **own})


def respond(
    say: Callable[[Messages], str],
    messages: Messages,
    toolbox: Toolbox,
    read: Callable[[str], str | None],
    console: Any,
) -> Messages | None:
    """The conversation with what the model says, and the calls that it makes until it answers; None
    where the input ended before a result was typed.

    `read` asks the user for a line, None where the input has ended. A call that cannot be read is a
    part of the answer; one that does not fit its tool gets the fault for a result.
    """
    for _ in range(MOST_ROUNDS):
        text = say(messages)
        # without tools a tag is a word like others
        answer = read_answer(text) if offered(messages) else Message("assistant", text)
        messages = (*messages, answer)
        for call in read_calls(text) if offered(messages) else ():
            if isinstance(call, BadCall):
                detail = f" ({call.detail})" if call.detail else ""
                wrong = call.detail if call.fault == "bad JSON" else f"{call.fault}{detail}"
                console.print(plain(f"this call cannot be read and is not made: {wrong}"))
        # a bad call ends the turn: its text is all that the model said, as servers tell it too
        if not answer.tool_calls:
            return messages
        for call in answer.tool_calls:
            result = _result(call, offered(messages), toolbox, read, console)
            if result is None:
                return None
            messages = (*messages, Message("tool", result))
    console.print(f"{MOST_ROUNDS} rounds of calls without an answer; it is your turn.")
    return messages


def _result(
    call: ToolCall,
    tools: tuple[Tool, ...],
    toolbox: Toolbox,
    read: Callable[[str], str | None],
    console: Any,
) -> str | None:
    """What a call gives, as JSON text or as the user wrote it; None where the input has ended."""
    shown = f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})"
    # the fault goes back in place of a result, as in the agent loop of the Hermes models, so that
    # the model can call again
    if wrong := call_fault(call, tools):
        advice = "call this function again with correct arguments"
        result = json.dumps({"error": f"{wrong}; {advice}"}, ensure_ascii=False)
        console.print(plain(f"{shown} does not fit the tools: {wrong}"))
        return result
    if call.name in toolbox.functions:
        given = toolbox.functions[call.name].run(call.arguments)
        result = json.dumps(given, ensure_ascii=False)
        console.print(plain(f"{shown} gives {result}"))
        return result
    console.print(plain(f"{shown}: no shipped function has this name; type what it gives"))
    return read("result> ")
