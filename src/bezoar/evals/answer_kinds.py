"""What became of answers that a program checks: right, or how they are wrong, with examples."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bezoar.io import Row

MOST_SHOWN = 2
"""Examples of each kind of failure."""
_MOST_TEXT = 600


class Answered(NamedTuple):
    """An answer of a class of items; `kind` names what is wrong with it, "" if it is right."""

    id: str
    group: str
    kind: str
    asked: str
    text: str = ""
    detail: str = ""


def kinds_of(answers: Iterable[Answered]) -> Row:
    """Class -> how many are right and how many are wrong in which way; and examples of each way."""
    groups: dict[str, Counter[str]] = {}
    examples: dict[str, list[Row]] = {}
    for answer in answers:
        groups.setdefault(answer.group, Counter())[answer.kind or "right"] += 1
        if not answer.kind:
            continue
        shown = examples.setdefault(answer.kind, [])
        # the first ones, so that models show the same items where they fail alike
        if len(shown) < MOST_SHOWN:
            asked, text = answer.asked[:_MOST_TEXT], answer.text[:_MOST_TEXT]
            shown.append({"id": answer.id, "asked": asked, "text": text, "detail": answer.detail})
    return {
        "kinds": {group: dict(counts.most_common()) for group, counts in groups.items()},
        "examples": examples,
    }
