"""The words of a reply that are its writer's own: what it quotes or shows as code is masked.

Every step takes time in proportion to the text: no two repetitions of a pattern can take the same
characters.
"""

import re
from collections import deque

MASK = "\ufffc"  # U+FFFC stands for what is no text, so no pattern matches it
_POINT = r"(?:(?:[-*+•]|[0-9]{1,9}[.)])\s++)*+"
_QUOTED = re.compile(rf"\s*+{_POINT}>")
_FENCE = re.compile(rf"\s*+{_POINT}(`{{3,}}+(?=[^`]*+$)|~{{3,}}+)")
_INDENTED = re.compile(r" {4}| {0,3}\t")
_TICKS = re.compile(r"`++")
_PARAGRAPHS = re.compile(r"(\n[^\S\n]*+\n)")
_TRIPLED = (re.compile(r'"""(?:[^"]|"(?!""))*+"""'), re.compile(r"'''(?:[^']|'(?!''))*+'''"))
_ELEMENTS = tuple(
    (
        re.compile(rf"<{name}\b[^<>]*+>.*?</{name}>", re.DOTALL | re.IGNORECASE),
        re.compile(f"</{name}>", re.IGNORECASE),
    )
    for name in ("blockquote", "pre", "code", "q")
)
_STRINGS = (
    re.compile(r"``((?:[^`'\n]|'(?!'))*+)''|(?<!`)`([^`'\n]*+)'(?![^\W_])"),
    re.compile(r'(?<![^\W_])"(?=\S|\n)([^"]*+)(?<![^\S\n])"(?![^\W_])'),
    re.compile(r"“([^“”]*+)”|„([^„“”]*+)[“”]|«([^«»]*+)»|「([^「」]*+)」"),
    re.compile(r"(?<![^\W_])(?<!')'(?=\S)((?:[^'\n]|(?<=[^\W_])'(?=[^\W_]))*+)(?<!\s)'(?![^\W_])"),
    re.compile(r"(?<![^\W_])‘((?:[^‘’\n]|(?<=[^\W_])’(?=[^\W_]))*+)’"),
)
ONE_WORD = re.compile(r"[\W_]*+[^\W_]++[\W_]*+")


def own_words(text: str, keep: re.Pattern[str] | None = None) -> str:
    """`text`, with its length and lines, with `MASK` for every character that is quoted or code.

    What matches `keep` as a whole stays: the marks of JSON and of a bare "Accept" do not quote.
    """
    # 1) lines that begin with `>` (behind the mark of a list, too), blocks between fences of ``` or
    #    ~~~ (an open one to the end), and blocks indented by four spaces behind a blank line; a
    #    carriage return ends a line, by itself or with the line feed behind it
    text = _without_blocks(text.replace("\r\n", " \n").replace("\r", "\n"))
    # 2) text between equal runs of backticks, which may not span paragraphs
    text = "".join(_without_code(part) for part in _PARAGRAPHS.split(text))
    # 3) HTML's elements and triple quotation marks, before single marks inside them are paired
    text = _without_elements(text)
    for pattern in _TRIPLED:
        text = pattern.sub(lambda match: _masked(match[0]), text)
    # 4) quotation marks: a straight one opens where no letter stands before it and closes where
    #    none follows, so that inches and apostrophes quote nothing
    for pattern in _STRINGS:
        text = pattern.sub(
            lambda match: match[0] if keep and keep.fullmatch(match[0]) else _masked(match[0]), text
        )
    return text


def _masked(text: str) -> str:
    return "\n".join(MASK * len(line) for line in text.split("\n"))


def _without_blocks(text: str) -> str:
    """Quoted lines, fenced and indented blocks masked."""
    kept: list[str] = []
    fence = ""  # of the block that is open
    begun = behind_blank = in_block = False
    for line in text.split("\n"):
        # an open fence ends only at a line of its own mark, at least as long
        inner = line.strip()
        masked = bool(fence)
        if fence:
            fence = "" if len(inner) >= len(fence) and not inner.strip(fence[0]) else fence
        else:
            in_block = (in_block and not inner) or (
                (in_block or behind_blank) and bool(_INDENTED.match(line))
            )
            opened = None if in_block else _FENCE.match(line)
            fence = opened[1] if opened else ""
            masked = in_block or bool(opened) or bool(_QUOTED.match(line))
        begun = begun or bool(inner)
        behind_blank = begun and not inner
        kept.append(MASK * len(line) if masked else line)
    return "\n".join(kept)


def _without_elements(text: str) -> str:
    """HTML's quotes and code masked; each search ends at an end tag, none runs to no avail."""
    for element, end in _ELEMENTS:
        last = max((match.end() for match in end.finditer(text)), default=0)
        text = element.sub(lambda match: _masked(match[0]), text[:last]) + text[last:]
    return text


def _without_code(text: str) -> str:
    """A paragraph with the text between equal runs of backticks masked."""
    runs = [match.span() for match in _TICKS.finditer(text)]
    # by length, the numbers of the runs that are still to come
    later: dict[int, deque[int]] = {}
    for number, (start, end) in enumerate(runs):
        later.setdefault(end - start, deque()).append(number)
    parts: list[str] = []
    done = number = 0
    while number < len(runs):
        start, end = runs[number]
        same = later[end - start]
        while same and same[0] <= number:
            same.popleft()
        if same:
            parts += [text[done:start], _masked(text[start : runs[same[0]][1]])]
            number, done = same[0], runs[same[0]][1]
        number += 1
    return "".join([*parts, text[done:]])
