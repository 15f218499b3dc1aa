"""Values of arguments by their kind, each with the way in which a person says it.

A kind is a name with numbers: `int LOW HIGH [STEP]`, `year LOW HIGH`, `num LOW HIGH DIGITS`,
`rate LOW HIGH` (decimals told in percent), `enum a|b`, `enumint 4|6`, `bool`, `date`, `time`,
`code PATTERN` (A: a capital, a: a small letter, 9: a digit), `list KIND LEAST MOST`, or the name of
a list of words in `seeds/words.jsonl`, whose words may hold others as `{kind}`, or as `{Kind}` for
capitals.
"""

import datetime
import random
import re
import string
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bezoar.data.files import locate_file
from bezoar.errors import DataError
from bezoar.reading import read_jsonl

_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve"
COUNT_WORDS = dict(enumerate(_COUNTS.split(" ")))
_TRIES = 50
_LETTERS = {"A": string.ascii_uppercase, "a": string.ascii_lowercase, "9": string.digits}


class Said(NamedTuple):
    """A JSON value, and the words for it in a request."""

    value: Any
    words: str


WORDS = "bezoar:words.jsonl"
"""The lists of words that ship."""


@cache
def word_lists() -> dict[str, list[str]]:
    """The lists of words that ship with the package, by kind."""
    path = locate_file(WORDS, Path(), "words")
    return {row["kind"]: row["words"].split(", ") for _, row in read_jsonl(path)}


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind. ValueError for a kind that does not exist."""
    name, _, rest = kind.partition(" ")
    if name in ("int", "year"):
        return {"type": "integer"}
    if name in ("num", "rate"):
        return {"type": "number"}
    if name == "enumint":
        return {"type": "integer", "enum": [int(value) for value in rest.split("|")]}
    if name == "enum":
        return {"type": "string", "enum": rest.split("|")}
    if name == "bool":
        return {"type": "boolean"}
    if name == "list":
        return {"type": "array", "items": schema(rest.rsplit(" ", 2)[0])}
    if name not in ("date", "time", "code") and kind not in word_lists():
        raise ValueError(f"{kind!r} is no kind of value")
    return {"type": "string"}


def draw(kind: str, rng: random.Random) -> Said:
    """A value of a kind."""
    name, _, rest = kind.partition(" ")
    match name:
        case "int":
            return _integer(rng, *map(int, rest.split()))
        case "year":
            low, high = map(int, rest.split())
            return _plain(rng.randint(low, high))
        case "num":
            return _number(rng, *map(float, rest.split()))
        case "rate":
            return _rate(rng, *map(int, rest.split()))
        case "enum":
            return _plain(rng.choice(rest.split("|")))
        case "enumint":
            return _plain(int(rng.choice(rest.split("|"))))
        case "bool":
            return _plain(rng.random() < 0.5)
        case "date":
            return _date(rng)
        case "time":
            return _time(rng)
        case "code":
            return _plain("".join(rng.choice(_LETTERS.get(c, c)) for c in rest))
        case "list":
            return _list(rng, *rest.rsplit(" ", 2))
    return _plain(_word(kind, rng))


def draw_different(kinds: Mapping[str, str], rng: random.Random) -> dict[str, Said]:
    """A value for each name; those of one kind differ, such as the two cities of a journey.
    ValueError for a kind with too few values."""
    drawn: dict[str, Said] = {}
    for name, kind in kinds.items():
        others = [drawn[other].value for other in drawn if kinds[other] == kind != "bool"]
        for _ in range(_TRIES):
            drawn[name] = draw(kind, rng)
            if drawn[name].value not in others:
                break
        else:
            raise ValueError(f"{kind!r} has too few values for {len(others) + 1} of them")
    return drawn


def _plain(value: Any) -> Said:
    return Said(value, str(value))


def _word(kind: str, rng: random.Random) -> str:
    if kind[0].isupper():  # as in a title
        return string.capwords(_word(kind.lower(), rng))
    text = rng.choice(word_lists()[kind])
    if "{" in text:
        text = re.sub(r"\{(\w+)\}", lambda found: _word(found[1], rng), text)
    return articles(text)


def articles(text: str) -> str:
    """With `an` for `a` before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeio](?!nd |r |ne ))", r"\1n ", text)


def _integer(rng: random.Random, low: int, high: int, step: int = 1) -> Said:
    value = rng.randrange(low, high + 1, step)
    # people write small numbers as words, and large ones with commas
    style = rng.random()
    if value in COUNT_WORDS and style < 0.12:
        return Said(value, COUNT_WORDS[value])
    return Said(value, f"{value:,}" if style > 0.7 else str(value))


def _number(rng: random.Random, low: float, high: float, digits: float) -> Said:
    number = round(rng.uniform(low, high), int(digits))
    return _plain(int(number) if number.is_integer() else number)


def _rate(rng: random.Random, low: int, high: int) -> Said:
    percent = rng.randint(low, high)
    value = round(percent / 100, 2)
    return Said(value, rng.choice((f"{percent}%", f"{percent} percent", f"{percent} %")))


def _date(rng: random.Random) -> Said:
    day = datetime.date(2025, 1, 1) + datetime.timedelta(days=rng.randrange(1400))
    month = f"{day:%B}"
    # most dates stand as they are wanted; the others have to be rewritten
    ways = (f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}")
    return Said(day.isoformat(), rng.choice(ways) if rng.random() < 0.25 else day.isoformat())


def _time(rng: random.Random) -> Said:
    # nobody books a table at 03:17
    hour, minute = rng.randrange(6, 23), rng.choice((0, 15, 30, 45))
    value = f"{hour:02}:{minute:02}"
    if rng.random() < 0.8:
        return Said(value, value)
    return Said(value, f"{(hour - 1) % 12 + 1}:{minute:02} {'am' if hour < 12 else 'pm'}")


def _list(rng: random.Random, kind: str, least: str, most: str) -> Said:
    num = rng.randint(int(least), int(most))
    values: list[Any] = []
    for _ in range(_TRIES * num):
        if len(values) == num:
            break
        value = draw(kind, rng).value
        # a name twice in a list reads like a mistake; numbers may well be equal
        if not isinstance(value, str) or value not in values or kind == "option":
            values.append(value)
    if len(values) < num:
        raise ValueError(f"{kind!r} has too few values for a list of {num}")
    # code and data are pasted as lists, names are not
    in_brackets = not isinstance(values[0], str) and rng.random() < 0.4
    texts = [str(value) for value in values]
    return Said(values, f"[{', '.join(texts)}]" if in_brackets else listed(texts))


def listed(texts: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def check_words() -> None:
    """DataError if a word of the shipped lists holds a kind that does not exist."""
    lists = word_lists()
    for kind, words in lists.items():
        for name in re.findall(r"\{(\w+)\}", " ".join(words)):
            if name.lower() not in lists:
                raise DataError(f"words.jsonl: {kind} holds {{{name}}}, which is no kind.")
