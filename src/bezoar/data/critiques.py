"""Critiques and revisions (CnR, arXiv 2311.14543): rows of (prompt, response, critique, revision),
and their text both ways.

The paper trains one model to criticise and to revise; its wording is not known, and this is ours. A
row is a chat of one user message, the question about prompt and response, and one answer of
critique and revision, so that plain SFT with `loss_on: answer` trains exactly these two.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bezoar.chat.types import Chat, Dropped, Message, Messages
from bezoar.data.rows import RowOrigin, text
from bezoar.data.source import Source
from bezoar.data.turns import fault, messages_in
from bezoar.io import Row

_QUESTION = """\
A user spoke with an assistant. Criticise the assistant's answer and write a better one.

[Conversation]
{conversation}

[Answer]
{response}

[End]

Reply with two parts: "Critique:" and what is good and what is bad in the answer, then, on a \
new line, "Revision:" and the whole revised answer."""


def _label(word: str) -> str:
    """A pattern for a word with its colon, or alone on its line, plain or with marks of emphasis
    around it. Possessive, so that a long run of spaces is read once."""
    return (
        r"[#>"
        rf" \t]*+(?P<marks>[*_]*+){word}[^\S\n]*+(?::(?P=marks)|(?P=marks)[^\S\n]*+(?::|(?=\n|$)))"
    )


_FIRST = re.compile(rf"\s*+{_label('critique')}", re.IGNORECASE)
_SECOND = re.compile(rf"(?:^|\n){_label('revision')}", re.IGNORECASE)


class Revised(NamedTuple):
    """What a model wrote about an answer, and its better one; the two answers may be equal."""

    critique: str
    revision: str


class Unread(NamedTuple):
    """A text that does not hold both parts."""

    why: Literal["no critique", "no revision", "empty critique", "empty revision"]


def question(prompt: Messages, response: str) -> Messages:
    """What a model is asked about an answer: one user message that holds the whole conversation."""
    parts = {"conversation": conversation(prompt), "response": response}
    return (Message("user", re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], _QUESTION)),)


def conversation(prompt: Messages) -> str:
    """A lone user message as it is, several turns with their speakers."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in prompt if m.content)


def write(critique: str, revision: str) -> str:
    """The answer that is trained."""
    return f"Critique: {critique}\nRevision: {revision}"


def parse(reply: str) -> Revised | Unread:
    """The two parts of an answer: it begins with the first label, and the second is the first that
    begins a line."""
    first, second = _FIRST.match(reply), _SECOND.search(reply)
    if first is None:
        return Unread("no critique")
    if second is None:
        return Unread("no revision")
    found = Revised(reply[first.end() : second.start()].strip(), reply[second.end() :].strip())
    return found if all(found) else Unread("empty revision" if found.critique else "empty critique")


def critique_alone(reply: str) -> str:
    """The critique of a reply that should hold nothing else, without its label and without a
    revision that follows."""
    first, second = _FIRST.match(reply), _SECOND.search(reply)
    return reply[first.end() if first else 0 : second.start() if second else None].strip()


def trained(name: str, chat: Chat, revised: Revised, meta: dict[str, Any]) -> Chat | Dropped:
    """The row that is trained of a chat, its answer being the response; dropped where a part is
    empty or would not be read back."""
    empty = next(
        (
            part
            for part, said in (("response", chat.answer), *revised._asdict().items())
            if not said.strip()
        ),
        "",
    )
    if empty:
        return Dropped(name, f"empty {empty}")
    if parse(write(*revised)) != revised:
        return Dropped(name, "label in the critique", revised.critique[:400])
    asked = question(chat.prompt, chat.answer)
    return Chat(name, (*asked, Message("assistant", write(*revised))), meta)


@dataclass(frozen=True)
class Critiques(Source[Chat]):
    """Columns prompt (text, or a list of {role, content}), response, critique, revision, written by
    people. A revision that equals the response is kept: it teaches to leave good answers alone."""

    kind: Literal["critiques"] = "critiques"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        """One row."""
        given = row.get("prompt")
        prompt = (
            messages_in(given, at)
            if isinstance(given, list)
            else (Message("user", text(row, "prompt", at)),)
        )
        response, *parts = (text(row, name, at) for name in ("response", "critique", "revision"))
        if reason := fault(prompt, answered=False):
            return Dropped(at.id, reason, at.text)
        return trained(
            at.id, Chat(at.id, (*prompt, Message("assistant", response))), Revised(*parts), {}
        )
