"""Instructions from a model's list of tagged examples; weak models forget tags and add numbers."""

import re
from dataclasses import dataclass
from functools import cache

from bezoar.prompts import read_prompt

# Possessive quantifiers (*+, ++) never give back what they took: white space is read only once.
_TAG = re.compile(r"<\s*+(/?)\s*+examples?\s*+\d*+\s*+/?\s*+>", re.IGNORECASE)
_PARTIAL_TAG = re.compile(r"<\s*+(/?)[a-z]{0,8}$", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*+(?:[-*•]\s++|#{1,4}\s++|\(?\d{1,3}[.):](?!\d)\s*+)")
_LABEL = re.compile(
    r"^\s*+(?:new\s++)?+(?:example|instruction|task|prompt|question)\s*+#?\d*+\s*+:\s*+",
    re.IGNORECASE,
)
_RESPONSE = re.compile(
    r"\n[^\S\n]*+(?:\*\*|#++\s*+)?+(?:response|answer|output|solution)\s*+\d*+\s*+(?:\*\*)?+\s*+:.*",
    re.IGNORECASE | re.DOTALL,
)
_NUMBERED = re.compile(r"^[^\S\n]*+\(?(\d{1,3})[.):]\s++(?=\S)", re.MULTILINE)
_QUOTES = {'"': '"', "“": "”", "'": "'", "`": "`"}


@dataclass(frozen=True)
class Example:
    """One instruction of a list; `cut` if the text may end in its middle."""

    text: str
    cut: bool = False


def parse_examples(text: str, *, cut: bool) -> list[Example]:
    """The instructions in a reply with its prefill; `cut` if the reply ended at its token limit.

    An example ends at its closing tag, or at the next tag; text between examples is ignored. A list
    without tags, or within a single example, is split at its numbers. Numbers, labels, quotes and
    responses that follow are removed.
    """
    # 1) Of a tag at the end only the start may have been written: a closing one ends its example.
    if cut and (partial := _PARTIAL_TAG.search(text)):
        text, cut = text[: partial.start()], not partial[1]
    # 2) Split at the tags, or without tags at the numbers of a list.
    items: list[Example] = []
    tags = list(_TAG.finditer(text))
    for number, tag in enumerate(tags, 1):
        end = tags[number].start() if number < len(tags) else len(text)
        if not tag[1]:
            items.append(Example(text[tag.end() : end], cut and number == len(tags)))
    if not tags:
        items = _split_at_numbers(Example(text, cut))
    # 3) A single example may hold a whole list.
    items = [item for item in items if item.text.strip()]
    if len(items) == 1:
        items = _split_at_numbers(items[0]) or items
    # 4) Clean what is left.
    cleaned = [Example(clean(_RESPONSE.sub("", "\n" + item.text)), item.cut) for item in items]
    return [item for item in cleaned if item.text]


def _split_at_numbers(item: Example) -> list[Example]:
    """The points of a list that begins the text and counts from 1; [] if it is no such list."""
    marks = list(_NUMBERED.finditer(item.text))
    # Three points at least, from 1: fewer numbers are part of an instruction, not a list of them.
    counts = [int(mark[1]) for mark in marks[:3]]
    if counts != [1, 2, 3] or marks[0].start() or item.text[0].isspace():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(item.text)]
    return [
        Example(item.text[mark.end() : end], item.cut and end == len(item.text))
        for mark, end in zip(marks, ends, strict=True)
    ]


def clean(text: str) -> str:
    """An instruction without the number, label, emphasis and quotes that a model puts around it."""
    text = text.strip()
    for pattern in (_NUMBER, _LABEL):
        text = pattern.sub("", text, count=1).strip()
    # Only marks around the whole text: those within it belong to the instruction.
    for emphasis in ("**", "__"):
        wrapped = text.startswith(emphasis) and text.endswith(emphasis) and len(text) > 4
        if wrapped and text.count(emphasis) == 2:
            text = text[2:-2].strip()
    # 2 for “ and ”, 4 for the same mark at both ends, which is counted twice
    num_marks = text.count(text[:1]) + text.count(text[-1:])
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and num_marks in (2, 4):
        text = text[1:-1].strip()
    return text


def is_instruction(text: str) -> bool:
    """Whether an English text is a question, or begins with one of many verbs in the imperative."""
    return "?" in text or _first_word(text) in _word_list("imperatives")


def opens_well(text: str) -> bool:
    """Whether the first word of an English text makes what follows a question or an order."""
    return _first_word(text) in _word_list("imperatives") | _word_list("question_words")


@cache
def _word_list(name: str) -> frozenset[str]:
    return frozenset(read_prompt(f"bezoar:{name}.txt").split())


def _first_word(text: str) -> str:
    first = re.match(r"\W*([^\W\d_]+)", text)
    return first[1].casefold() if first else ""
