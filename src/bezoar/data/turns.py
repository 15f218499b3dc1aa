"""Conversations from other formats: lists of messages, who may speak after whom, and pairs."""

from typing import Any

from bezoar.chat.types import Chat, Comparison, Dropped, Message, Messages, Role, ToolCall
from bezoar.data.rows import RowOrigin, parse_json, text
from bezoar.io import Row

_SPEAKERS: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
# who may speak after whom; "" is the start, "call" an assistant that calls functions, "written
# call" one whose text holds the call, in the form of the Hermes models
_NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call", "written call"),
    "assistant": ("user",),
    "call": ("tool",),
    "written call": ("tool", "user"),
    "tool": ("tool", "assistant", "call", "written call"),
}
_WRITTEN_CALL = "<tool_call>"


def messages_in(value: Any, at: RowOrigin, *, who: str = "role", what: str = "content") -> Messages:
    """A list of {who, what} objects as messages; neighbouring function calls become one turn."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = parse_json(value, at, "with the conversation")
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise at.wrong(f"the conversation is not a list of objects with {who!r} and {what!r}.")
    messages: list[Message] = []
    for turn in value:
        speaker = text(turn, who, at)
        if speaker not in _SPEAKERS:
            known = ", ".join(_SPEAKERS)
            raise at.wrong(f"the speaker {speaker!r} is unknown; the speakers are {known}.")
        if speaker == "function_call":
            calls = _calls(parse_json(text(turn, what, at), at), at)
            if messages and messages[-1].tool_calls:
                calls = (*messages.pop().tool_calls, *calls)
            messages.append(Message("assistant", "", calls))
        else:
            calls = _calls(_parsed(turn.get("tool_calls"), at) or [], at)
            # beside calls there may be no content, or null
            content = text(turn, what, at, needed=not calls)
            messages.append(Message(_SPEAKERS[speaker], content, calls))
    return tuple(messages)


def prompt_in(row: Row, name: str, at: RowOrigin) -> Messages:
    """A prompt that is a list of messages, or a text of the user."""
    if isinstance(row.get(name), list):
        return messages_in(row[name], at)
    return (Message("user", text(row, name, at)),)


def with_system(system: str, messages: Messages) -> Messages:
    """The conversation behind a system message, which has a column of its own; "" is none."""
    return (Message("system", system), *messages) if system else messages


def tools_in(row: Row, at: RowOrigin) -> dict[str, Any]:
    """The column `tools`, a list of functions or that as JSON text, as a part of a row's meta."""
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = parse_json(tools, at, "tools")
    if not isinstance(tools, list):
        raise at.wrong_type("tools", tools, "a list of functions")
    return {"tools": tools} if tools else {}


def split_turns(parts: list[str]) -> Messages:
    """Messages from [speaker, words, speaker, words, ...], as `re.split` gives them."""
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(_SPEAKERS[speaker.lower()], words.strip()) for speaker, words in turns)


def _calls(value: Any, at: RowOrigin) -> tuple[ToolCall, ...]:
    # one or a list of {name, arguments}, also in OpenAI's {function: ...}
    calls = []
    for item in value if isinstance(value, list) else [value]:
        call = item.get("function", item) if isinstance(item, dict) else {}
        name, arguments = None, None
        if isinstance(call, dict):
            name, arguments = call.get("name"), _parsed(call.get("arguments"), at)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise at.wrong("a function call is not an object with a name and arguments; mend it.")
        calls.append(ToolCall(name, arguments))
    return tuple(calls)


def _parsed(value: Any, at: RowOrigin) -> Any:
    return parse_json(value, at) if isinstance(value, str) and value else value


def turn_problem(messages: Messages, *, answered: bool = True) -> str:
    """Why a conversation cannot be used, or ""; with `answered` it must end with an answer."""
    before = ""
    for index, message in enumerate(messages, 1):
        state: str = "call" if message.tool_calls else message.role
        if state == "assistant" and _WRITTEN_CALL in message.content:
            state = "written call"
        if state not in _NEXT[before]:
            if before == "":
                return "does not start with the user"
            return "two turns in a row" if message.role == before else "turns out of order"
        # calls have no text, and a function may return nothing
        if not message.content.strip() and state not in ("call", "tool"):
            if index == len(messages) and message.role == "assistant":
                return "empty answer"
            return "empty system message" if message.role == "system" else "empty turn"
        before = state
    if answered:
        return "" if before in ("assistant", "written call") else "no answer"
    return "" if before in ("user", "tool") else "no prompt"


def checked_chat(messages: Messages, at: RowOrigin, meta: dict[str, Any]) -> Chat | Dropped:
    """The chat, or Dropped with the reason; an empty system message is left out."""
    if messages and messages[0].role == "system" and not messages[0].content:
        messages = messages[1:]
    problem = turn_problem(messages)
    return Dropped(at.id, problem, at.text) if problem else Chat(at.id, messages, meta)


def checked_pair(
    prompt: Messages, answers: tuple[str, str], at: RowOrigin, meta: dict[str, Any]
) -> Comparison | Dropped:
    """The pair (chosen, rejected), or Dropped: a bad prompt, an empty answer, equal answers."""
    problem = turn_problem(prompt, answered=False)
    if not problem and not all(answers):
        problem = "empty answer"
    if not problem and answers[0] == answers[1]:
        problem = "equal answers"
    if problem:
        return Dropped(at.id, problem, at.text)
    return Comparison(at.id, prompt, *answers, meta)


def pair_in(
    row: Row, at: RowOrigin, names: tuple[str, str, str], meta: dict[str, Any]
) -> Comparison | Dropped:
    """A pair from the columns `names` (prompt, chosen, rejected), each text or a list of messages.

    Lists that hold the prompt too are split before their last message; if the two prompts differ,
    the row is dropped.
    """
    prompt_name, chosen_name, rejected_name = names
    chosen_prompt, chosen = _side(row, chosen_name, at)
    rejected_prompt, rejected = _side(row, rejected_name, at)
    prompt: Messages = ()
    if not chosen_prompt or row.get(prompt_name) is not None:
        prompt = prompt_in(row, prompt_name, at)
    # a list of one message is an answer without its prompt
    prompts = (chosen_prompt or prompt, rejected_prompt or prompt)
    if prompts[0] != prompts[1]:
        return Dropped(at.id, "prompts differ", at.text)
    return checked_pair(prompts[0], (chosen, rejected), at, meta)


def _side(row: Row, name: str, at: RowOrigin) -> tuple[Messages, str]:
    if not isinstance(row.get(name), list):
        return (), text(row, name, at)
    messages = messages_in(row[name], at)
    if not messages or messages[-1].role != "assistant":
        return messages, ""
    return messages[:-1], messages[-1].content
