"""Documents in a prompt, and answers that cite them: `<co:2>a span</co>`, `Cited Documents: 2`.

Source: Hermes 3, arXiv 2408.11857, figure 8
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.chat.messages import Message, Messages

SYSTEM = (
    "You are a conversational AI assistant that is provided a list of documents and a user query to"
    " answer based on information from the documents. You should always use grounded information in"
    " your responses, only answering from what you can cite in the documents. Cite all facts from"
    " the documents using <co: doc_id></co> tags."
)
NONE = "none"
# the paper declares `<co: id>` and shows `<co:2>`
_SPAN = re.compile(r"<co:\s*([\d,\s]+)>(.*?)</co(?::[\d,\s]*)?>", re.DOTALL)
_CITED = re.compile(r"^Cited Documents:[ \t]*(.*)$", re.MULTILINE)
_DOCUMENT = re.compile(
    r"^Document:(\d+)\nTitle: ([^\n]*)\nText: (.*?)(?=\n\nDocument:\d+\nTitle: |\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Document:
    """A document of a prompt; its number is its place in the list, from 0."""

    title: str
    text: str


@dataclass(frozen=True)
class Citation:
    """A span of an answer and the numbers of the documents that it is from."""

    documents: tuple[int, ...]
    span: str


def documents_prompt(question: str, documents: Sequence[Document]) -> Messages:
    """The system message, and the question with the documents."""
    listed = [
        f"Document:{number}\nTitle: {document.title}\nText: {document.text}"
        for number, document in enumerate(documents)
    ]
    text = "\n\n".join([f"{question}\n\nCONTEXT:", *listed])
    return Message("system", SYSTEM), Message("user", text)


def documents_in(prompt: Messages) -> list[Document]:
    """The documents of such a prompt, in the order of their numbers."""
    # a question may itself hold the word CONTEXT; the first one ends it
    context = prompt[-1].content.partition("\n\nCONTEXT:\n\n")[2] if prompt else ""
    return [Document(title, text) for _, title, text in _DOCUMENT.findall(context)]


def read_citations(answer: str) -> list[Citation]:
    """The cited spans of an answer, in order."""
    return [Citation(_numbers(ids), span.strip()) for ids, span in _SPAN.findall(answer)]


def cited_line(answer: str) -> tuple[int, ...] | None:
    """The numbers of the closing line `Cited Documents:`; None without such a line."""
    found = _CITED.findall(answer)
    return _numbers(found[-1]) if found else None


def is_quoted(citation: Citation, documents: Sequence[Document]) -> bool:
    """Whether each cited document exists and holds the span, apart from case and spaces."""
    span = _plain(citation.span)
    texts = [_plain(documents[n].text) if n < len(documents) else "" for n in citation.documents]
    return bool(span and texts) and all(span in text for text in texts)


def _numbers(text: str) -> tuple[int, ...]:
    # longer numbers are no places in a list, and Python refuses to read very long ones
    return tuple(int(number) for number in re.findall(r"(?<!\d)\d{1,6}(?!\d)", text))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".,;")
