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
from bezoar.data.turns import prompt_in, turn_problem
from bezoar.io import Row

_REQUEST = """\
A user spoke with an assistant. Criticise the assistant's answer and write a better one.

[Conversation]
{conversation}

[Answer]
{response}

[End]

Reply with two parts: "Critique:" and what is good and what is bad in the answer, then, on a \
new line, "Revision:" and the whole revised answer."""


def _label(word: str) -> str:
    """A pattern for a word with its colon, or by itself on its line, plain or emphasised."""
    # possessive quantifiers (*+), so that a long run of spaces is read only once
    emphasis, end = r"(?P<marks>[*_]*+)", r"(?=\n|$)"
    return rf"[#> \t]*+{emphasis}{word}[^\S\n]*+(?::(?P=marks)|(?P=marks)[^\S\n]*+(?::|{end}))"


_CRITIQUE = re.compile(rf"\s*+{_label('critique')}", re.IGNORECASE)
_REVISION = re.compile(rf"(?:^|\n){_label('revision')}", re.IGNORECASE)


class Revised(NamedTuple):
    """What a model wrote about an answer, and its better one; the two answers may be equal."""

    critique: str
    revision: str


class UnreadRevision(NamedTuple):
    """A reply that does not hold both parts."""

    why: Literal["no critique", "no revision", "empty critique", "empty revision"]


def revision_request(prompt: Messages, response: str) -> Messages:
    """One user message that asks for critique and revision of a response."""
    # in one pass: a response may hold "{conversation}" itself
    parts = {"conversation": transcript(prompt), "response": response}
    return (Message("user", re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], _REQUEST)),)


def transcript(prompt: Messages) -> str:
    """A single user message as it is, several turns with their speakers."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in prompt if m.content)


def format_revision(critique: str, revision: str) -> str:
    """The answer that is trained; `parse_revision` undoes it."""
    return f"Critique: {critique}\nRevision: {revision}"


def parse_revision(reply: str) -> Revised | UnreadRevision:
    """The parts of a reply that begins with "Critique:"; the first line "Revision:" parts them."""
    critique_label, revision_label = _CRITIQUE.match(reply), _REVISION.search(reply)
    if critique_label is None:
        return UnreadRevision("no critique")
    if revision_label is None:
        return UnreadRevision("no revision")
    critique = reply[critique_label.end() : revision_label.start()].strip()
    revision = reply[revision_label.end() :].strip()
    if critique and revision:
        return Revised(critique, revision)
    return UnreadRevision("empty revision" if critique else "empty critique")


def parse_critique(reply: str) -> str:
    """The critique of a reply that should hold nothing else, without label and later revision."""
    critique_label, revision_label = _CRITIQUE.match(reply), _REVISION.search(reply)
    start = critique_label.end() if critique_label else 0
    return reply[start : revision_label.start() if revision_label else None].strip()


def revision_chat(
    row_id: str, chat: Chat, revised: Revised, meta: dict[str, Any]
) -> Chat | Dropped:
    """The row to train on the answer of `chat`; Dropped if a part is empty or not read back."""
    for name, part in (("response", chat.answer), *revised._asdict().items()):
        if not part.strip():
            return Dropped(row_id, f"empty {name}")
    answer = format_revision(*revised)
    # a line "Revision:" in the critique would end it there
    if parse_revision(answer) != revised:
        return Dropped(row_id, "label in the critique", revised.critique[:400])
    request = revision_request(chat.prompt, chat.answer)
    return Chat(row_id, (*request, Message("assistant", answer)), meta)


@dataclass(frozen=True)
class Critiques(Source[Chat]):
    """Critiques and revisions of people: columns prompt, response, critique, revision.

    The prompt is a text or a list of {role, content}. A revision that equals the response is kept:
    it teaches to leave good answers as they are.

    Source: arXiv 2311.14543
    Example: {kind: critiques, path: critiques.jsonl}
    """

    kind: Literal["critiques"] = "critiques"

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        prompt, response = prompt_in(row, "prompt", at), text(row, "response", at)
        revised = Revised(text(row, "critique", at), text(row, "revision", at))
        if problem := turn_problem(prompt, answered=False):
            return Dropped(at.id, problem, at.text)
        chat = Chat(at.id, (*prompt, Message("assistant", response)))
        return revision_chat(at.id, chat, revised, {})
