"""Instructions of form that a program can check, after IFEval's kinds; checks and words are ours.

Source: arXiv 2311.07911 (the idea of verifiable instructions)
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bezoar.strict_json import NotJSONError, parse

_BULLET = re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?:\s+|$)|\n+")
SEPARATOR = "******"
"""Between two answers, as in IFEval."""


class Rule(NamedTuple):
    """A kind: how a prompt says it, the type of its argument, if any, and whether text keeps it."""

    phrase: str
    argument: type | None
    kept: Callable[[str, Any], bool]


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _is_json(text: str, _: Any) -> bool:
    try:
        return isinstance(parse(text), dict | list)
    except NotJSONError:
        return False


def _two(text: str, _: Any) -> bool:
    parts = [part.strip() for part in text.split(SEPARATOR)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _sentences(text: str) -> int:
    # a point within a word or a number ends nothing
    return len([part for part in _SENTENCE_END.split(text) if re.search(r"\w", part)])


def _paragraphs(text: str) -> int:
    return len([part for part in re.split(r"\n\s*\n", text) if part.strip()])


INSTRUCTIONS: dict[str, Rule] = {
    "at_least_words": Rule(
        "Use at least {} words.", int, lambda text, num: len(text.split()) >= num
    ),
    "at_most_words": Rule("Use at most {} words.", int, lambda text, num: len(text.split()) <= num),
    "sentences": Rule(
        "Write exactly {} sentences.", int, lambda text, num: _sentences(text) == num
    ),
    "paragraphs": Rule(
        "Write exactly {} paragraphs with an empty line between them.",
        int,
        lambda text, num: _paragraphs(text) == num,
    ),
    "bullets": Rule(
        "Answer with exactly {} bullet points, each on a line that begins with *.",
        int,
        lambda text, num: len(_BULLET.findall(text)) == num,
    ),
    "keyword": Rule("Use the word {}.", str, _has),
    "forbidden": Rule("Do not use the word {}.", str, lambda text, word: not _has(text, word)),
    "begins_with": Rule(
        "Begin your answer with: {}", str, lambda text, start: text.startswith(start)
    ),
    "ends_with": Rule("End your answer with: {}", str, lambda text, end: text.endswith(end)),
    "lowercase": Rule("Write in lowercase letters only.", None, lambda text, _: text.islower()),
    "uppercase": Rule("Write in capital letters only.", None, lambda text, _: text.isupper()),
    "no_commas": Rule("Do not use any comma.", None, lambda text, _: "," not in text),
    "quotation": Rule(
        "Put your whole answer in double quotation marks.",
        None,
        lambda text, _: len(text) > 2 and text[0] == text[-1] == '"',
    ),
    "json": Rule("Give your whole answer as JSON.", None, _is_json),
    "two_answers": Rule(
        f"Give two different answers, with {SEPARATOR} between them and nowhere else.", None, _two
    ),
}
"""Kind -> its rule."""


def read_instruction(value: Any) -> tuple[Rule, Any]:
    """The rule and the argument of {kind: ..., value: ...}. ValueError for anything else."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    rule = INSTRUCTIONS.get(kind) if isinstance(kind, str) else None
    if rule is None:
        raise ValueError(f"there is no instruction {kind!r}; known are {', '.join(INSTRUCTIONS)}")
    argument = value.get("value")
    # in Python true is an int too
    fits = type(argument) is (rule.argument or type(None))
    if not fits or argument == "" or (isinstance(argument, int) and argument < 1):
        wanted = {int: "a whole number above 0", str: "a text"}.get(rule.argument or type(None), "")
        raise ValueError(f"{kind} needs {f'value: {wanted}' if wanted else 'no value'}")
    return rule, argument


def phrase(kind: str, argument: Any = None) -> str:
    """What a prompt says."""
    return INSTRUCTIONS[kind].phrase.format(argument)


def share_kept(instructions: list[tuple[Rule, Any]], text: str) -> float:
    """How many of the instructions an answer keeps; an empty one keeps none."""
    text = text.strip()
    kept = [bool(text) and rule.kept(text, argument) for rule, argument in instructions]
    return sum(kept) / len(kept)
