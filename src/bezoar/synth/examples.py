"""Instructions out of a model's list of tagged examples, read leniently: weak models forget tags
and add numbers."""

import re
from dataclasses import dataclass

# possessive, and within the line where they may begin at each: a reply of white space is read once
_TAG = re.compile(r"<\s*+(/?)\s*+examples?\s*+\d*+\s*+/?\s*+>", re.IGNORECASE)
_PARTIAL = re.compile(r"<\s*+(/?)[a-z]{0,8}$", re.IGNORECASE)
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
_IMPERATIVES = frozenset(
    re.findall(
        r"\w+",
        """
    add advise analyse analyze answer argue arrange assess brainstorm build calculate categorise
    categorize choose classify combine come compare complete compose compute condense consider
    construct continue convert correct count create critique debate decide define demonstrate
    derive describe design determine develop devise discuss divide draft draw edit estimate
    evaluate examine expand explain explore express extract fill find fix formulate generate
    give group guess help identify illustrate imagine improve infer invent label let list locate
    make match measure mention modify name offer organise organize outline paraphrase pick plan
    please point predict prepare present produce proofread propose prove provide pull put rank
    rate read recommend reformulate rephrase replace report research rewrite say select sequence
    share shorten show simplify solve sort spell split state suggest sum summarise summarize
    tell think transform translate turn use verify write
""",
    )
)
_QUESTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "what which who whose whom when where why how is are was were do does did can could should"
        " would will may",
    )
)
_QUOTES = {'"': '"', "“": "”", "'": "'", "`": "`"}


@dataclass(frozen=True)
class Example:
    """One instruction as it stood in the list; `cut` when the text may end in its middle."""

    text: str
    cut: bool = False


def parse_examples(text: str, *, cut: bool) -> list[Example]:
    """The instructions in a reply, with its prefill; `cut` says that the reply ended at its token
    limit.

    An example ends at its closing tag, or at the next tag. Text between examples is passed over. A
    list without tags, or within one example, is read by its numbers. A closing tag of which only
    the beginning fitted in counts. Numbers, labels, quotes and responses that follow are taken off.
    """
    items: list[Example] = []
    partial = _PARTIAL.search(text) if cut else None
    if partial:
        text, cut = text[: partial.start()], not partial[1]
    start, end = None, 0
    for tag in _TAG.finditer(text):
        if start is not None:
            items.append(Example(text[start : tag.start()]))
        start, end = (None if tag[1] else tag.end()), tag.end()
    if start is not None:
        items.append(Example(text[start:], cut))
    if not end:
        items = _numbered(Example(text, cut))
    if len([item for item in items if item.text.strip()]) == 1:
        items = [part for item in items if item.text.strip() for part in _numbered(item) or [item]]
    cleaned = [Example(clean(_RESPONSE.sub("", "\n" + item.text)), item.cut) for item in items]
    return [item for item in cleaned if item.text]


def _numbered(item: Example) -> list[Example]:
    """The points of a list that begins the text and counts from 1; [] when there is none."""
    marks = list(_NUMBERED.finditer(item.text))
    if (
        len(marks) < 3
        or marks[0].start()
        or item.text[0].isspace()
        or [int(m[1]) for m in marks[:3]] != [1, 2, 3]
    ):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(item.text)]
    return [
        Example(item.text[m.end() : end], item.cut and end == len(item.text))
        for m, end in zip(marks, ends, strict=True)
    ]


def clean(text: str) -> str:
    """An instruction without the number, label, emphasis and quotes that a model puts around it."""
    text = text.strip()
    for mark in (_NUMBER, _LABEL):
        text = mark.sub("", text, count=1).strip()
    for mark_text in ("**", "__"):
        if (
            len(text) > 4
            and text.startswith(mark_text)
            and text.endswith(mark_text)
            and text.count(mark_text) == 2
        ):
            text = text[2:-2].strip()
    if (
        len(text) > 1
        and _QUOTES.get(text[0]) == text[-1]
        and text.count(text[0]) + text.count(text[-1]) in (2, 4)
    ):
        text = text[1:-1].strip()
    return text


def is_instruction(text: str) -> bool:
    """Whether an English text is a question, or begins with one of many verbs in the imperative."""
    return "?" in text or _first_word(text) in _IMPERATIVES


def opens_well(text: str) -> bool:
    """Whether the first word of an English text, alone, makes what follows a question or an
    order."""
    return _first_word(text) in _IMPERATIVES | _QUESTION_WORDS


def _first_word(text: str) -> str:
    first = re.match(r"\W*([^\W\d_]+)", text)
    return first[1].casefold() if first else ""
