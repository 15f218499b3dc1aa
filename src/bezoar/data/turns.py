"""Conversations from other formats: lists of messages, who may speak after whom, and pairs of
answers."""

from typing import Any

from bezoar.chat.types import Chat, Comparison, Dropped, Message, Messages, Role, ToolCall
from bezoar.data.rows import RowOrigin, parse_column, parse_json, text
from bezoar.io import Row

SPEAKERS: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}

_NEXT: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call"),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant", "call"),
}


def messages_in(value: Any, at: RowOrigin, *, who: str = "role", what: str = "content") -> Messages:
    """A list of {who, what} objects as messages; neighbouring function calls are one turn.
    DataError for another shape."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = parse_column(value, "with the conversation", at)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise at.wrong(
            f"the conversation is not a list of objects with {who!r} and {what!r}; write one object"
            " a turn."
        )
    messages: list[Message] = []
    for turn in value:
        speaker = text(turn, who, at)
        if speaker not in SPEAKERS:
            raise at.wrong(
                f"the speaker {speaker!r} is unknown; the speakers are {', '.join(SPEAKERS)}."
            )
        if speaker == "function_call":
            calls = calls_in(parse_json(text(turn, what, at), at), at)
            if messages and messages[-1].tool_calls:
                calls = (*messages.pop().tool_calls, *calls)
            messages.append(Message("assistant", "", calls))
            continue
        calls = calls_in(_json(turn.get("tool_calls"), at) or [], at)
        messages.append(Message(SPEAKERS[speaker], text(turn, what, at, needed=not calls), calls))
    return tuple(messages)


def calls_in(value: Any, at: RowOrigin) -> tuple[ToolCall, ...]:
    """{name, arguments} objects, alone or in a list, also in OpenAI's {function: ...}; arguments
    may be JSON text."""
    calls = []
    for item in value if isinstance(value, list) else [value]:
        call = item.get("function", item) if isinstance(item, dict) else None
        arguments = _json(call.get("arguments"), at) if isinstance(call, dict) else None
        if (
            not isinstance(call, dict)
            or not isinstance(call.get("name"), str)
            or not isinstance(arguments, dict)
        ):
            raise at.wrong(
                "a function call is not an object with a name and an object of arguments; mend the"
                " call."
            )
        calls.append(ToolCall(call["name"], arguments))
    return tuple(calls)


def _json(value: Any, at: RowOrigin) -> Any:
    return parse_json(value, at) if isinstance(value, str) and value else value


def turn_problem(messages: Messages, *, answered: bool = True) -> str:
    """Why a conversation cannot be used, or the empty string: who speaks after whom, empty turns,
    no answer at the end."""
    before = ""
    for index, message in enumerate(messages):
        state = "call" if message.tool_calls else message.role
        if state not in _NEXT[before]:
            if before == "":
                return "does not start with the user"
            return "two turns in a row" if message.role == before else "turns out of order"
        if not message.content and not message.tool_calls and state != "tool":
            last = index == len(messages) - 1 and message.role == "assistant"
            return (
                "empty answer"
                if last
                else "empty turn"
                if message.role != "system"
                else "empty system message"
            )
        before = state
    if answered and before != "assistant":
        return "no answer"
    return "" if answered or before in ("user", "tool") else "no prompt"


def checked_chat(messages: Messages, at: RowOrigin, meta: dict[str, Any]) -> Chat | Dropped:
    """The chat, or Dropped with the reason; an empty system message is left out."""
    if messages and messages[0].role == "system" and not messages[0].content:
        messages = messages[1:]
    reason = turn_problem(messages)
    return Dropped(at.id, reason, at.text) if reason else Chat(at.id, messages, meta)


def checked_pair(
    prompt: Messages, answers: tuple[str, str], at: RowOrigin, meta: dict[str, Any]
) -> Comparison | Dropped:
    """The pair (chosen, rejected), or Dropped: a bad prompt, an empty answer, or two equal
    answers."""
    chosen, rejected = answers
    reason = turn_problem(prompt, answered=False)
    if not reason and not (chosen and rejected):
        reason = "empty answer"
    if not reason and chosen == rejected:
        reason = "equal answers"
    return (
        Dropped(at.id, reason, at.text)
        if reason
        else Comparison(at.id, prompt, chosen, rejected, meta)
    )


def pair_in(
    row: Row, at: RowOrigin, names: tuple[str, str, str], meta: dict[str, Any]
) -> Comparison | Dropped:
    """A pair from the columns `names` (prompt, chosen, rejected), each text or a list of messages.

    Lists that hold the prompt too are split before their last message; when the two prompts differ
    the row is dropped.
    """
    prompt_name, chosen_name, rejected_name = names
    sides = [_side(row, name, at) for name in (chosen_name, rejected_name)]
    given: Messages = ()
    if isinstance(row.get(prompt_name), list):
        given = messages_in(row[prompt_name], at)
    elif not sides[0][0] or row.get(prompt_name) is not None:
        given = (Message("user", text(row, prompt_name, at)),)
    prompts = [side[0] or given for side in sides]
    if prompts[0] != prompts[1]:
        return Dropped(at.id, "prompts differ", at.text)
    return checked_pair(prompts[0], (sides[0][1], sides[1][1]), at, meta)


def _side(row: Row, name: str, at: RowOrigin) -> tuple[Messages, str]:
    if not isinstance(row.get(name), list):
        return (), text(row, name, at)
    messages = messages_in(row[name], at)
    if not messages or messages[-1].role != "assistant":
        return messages, ""
    return messages[:-1], messages[-1].content
