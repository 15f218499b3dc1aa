"""Conversations from other formats: lists of messages, who may speak after whom, and pairs."""

from typing import Any

from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import Chat, Comparison, Dropped, Message, Messages, Role, Tool
from bezoar.data.rows import RowOrigin, parse_json, text
from bezoar.data.tool_turns import calls_in, in_order, json_in, structured, tools_in_list
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
# who may speak after whom; "" is the start, "call" an assistant that calls functions
_NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call"),
    "assistant": ("user",),
    "call": ("tool", "user"),
    "tool": ("tool", "assistant", "call"),
}
_BAD_CALL = "bad JSON in a call"


def messages_in(value: Any, at: RowOrigin, *, who: str = "role", what: str = "content") -> Messages:
    """A list of {who, what} objects as messages; neighbouring function calls become one turn."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = parse_json(value, at, "with the conversation")
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise at.wrong(f"the conversation is not a list of objects with {who!r} and {what!r}.")
    messages: list[Message] = []
    ids: list[list[str]] = []
    for turn in value:
        speaker = text(turn, who, at)
        if speaker not in _SPEAKERS:
            known = ", ".join(_SPEAKERS)
            raise at.wrong(f"the speaker {speaker!r} is unknown; the speakers are {known}.")
        if speaker == "function_call":
            calls = calls_in(json_in(text(turn, what, at), _BAD_CALL))
            if messages and messages[-1].tool_calls:
                calls = (*messages.pop().tool_calls, *calls)
                ids.pop()
            messages.append(Message("assistant", "", calls))
        else:
            # beside calls there may be no content, or null
            written = turn.get("tool_calls") or []
            written = json_in(written, _BAD_CALL) if isinstance(written, str) else written
            if not isinstance(written, list):
                raise at.wrong("a function call is not an object with a name and arguments.")
            calls = calls_in(written)
            content = text(turn, what, at, needed=not calls)
            # a stage's rows hold the tools as JSON text
            tools = tools_in(turn, at)
            messages.append(Message(_SPEAKERS[speaker], content, calls, tools))
        asked = [call.get("id") for call in turn.get("tool_calls") or [] if isinstance(call, dict)]
        ids.append(
            [known for known in (turn.get("tool_call_id"), *asked) if isinstance(known, str)]
        )
    return tuple(in_order(messages, ids))


def prompt_in(row: Row, name: str, at: RowOrigin) -> Messages:
    """A prompt that is a list of messages, or a text of the user."""
    if isinstance(row.get(name), list):
        return messages_in(row[name], at)
    return (Message("user", text(row, name, at)),)


def with_system(system: str, messages: Messages) -> Messages:
    """The conversation behind a system message, which has a column of its own; "" is none."""
    return (Message("system", system), *messages) if system else messages


def tools_in(row: Row, at: RowOrigin) -> tuple[Tool, ...]:
    """The column `tools`, a list of functions or that as JSON text."""
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = json_in(tools, "bad JSON in the tools")
    if not isinstance(tools, list):
        raise at.wrong_type("tools", tools, "a list of functions")
    return tools_in_list(tools)


def split_turns(parts: list[str]) -> Messages:
    """Messages from [speaker, words, speaker, words, ...], as `re.split` gives them."""
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(_SPEAKERS[speaker.lower()], words.strip()) for speaker, words in turns)


def turn_problem(messages: Messages, *, answered: bool = True) -> str:
    """Why a conversation cannot be used, or ""; with `answered` it must end with an answer."""
    before = ""
    for index, message in enumerate(messages, 1):
        state: str = "call" if message.tool_calls else message.role
        if state not in _NEXT[before]:
            if before == "":
                return "does not start with the user"
            return "two turns in a row" if message.role == before else "turns out of order"
        # calls have no text, a function may return nothing, and tools need no words
        if not (message.content.strip() or message.tools or state in ("call", "tool")):
            if index == len(messages) and message.role == "assistant":
                return "empty answer"
            return "empty system message" if message.role == "system" else "empty turn"
        before = state
    if answered:
        return "" if before in ("assistant", "call") else "no answer"
    return "" if before in ("user", "tool") else "no prompt"


def checked_chat(
    messages: Messages, at: RowOrigin, meta: dict[str, Any], tools: tuple[Tool, ...] = ()
) -> Chat | Dropped:
    """The chat with its tools, or Dropped with the reason; an empty system message is left out."""
    messages = structured(messages, tools)
    if messages and messages[0] == Message("system", ""):
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
    row: Row,
    at: RowOrigin,
    names: tuple[str, str, str],
    meta: dict[str, Any],
    *,
    system: str = "",
    tools: tuple[Tool, ...] = (),
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
    prompt = structured(with_system(system, prompts[0]), tools)
    return checked_pair(prompt, (chosen, rejected), at, meta)


def _side(row: Row, name: str, at: RowOrigin) -> tuple[Messages, str]:
    if not isinstance(row.get(name), list):
        return (), text(row, name, at)
    messages = messages_in(row[name], at)
    if not messages or messages[-1].role != "assistant":
        return messages, ""
    return messages[:-1], write_answer(messages[-1])
