"""JSON from outside, as strict as the standard, and only what every later step can hold."""

import json
import math
import re
from collections import Counter
from typing import Any

MOST_DEPTH = 100  # later steps go through values by recursion
_MOST_DIGITS = 308  # such an integer is a float too
_MEND = "mend or remove the line"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class NotJSONError(ValueError):
    """Why a text is refused, as the rest of a sentence, and in which of its lines."""

    def __init__(self, what: str, line: int = 1, *, broken: bool = False) -> None:
        super().__init__(what)
        self.line, self.broken = line, broken


def parse(text: str) -> Any:
    """The value of a JSON text. NotJSONError for broken JSON, NaN, Infinity, numbers that Python
    cannot hold, a key that stands twice in one object, half of a surrogate pair, and more than
    MOST_DEPTH levels."""
    value, end = parse_at(text, space(text, 0))
    if space(text, end) != len(text):
        line = text.count("\n", 0, end) + 1
        raise NotJSONError(f"not valid JSON (Extra data); {_MEND}", line, broken=True)
    return value


def parse_at(text: str, start: int) -> tuple[Any, int]:
    """(value at `start`, where it ends). NotJSONError, `broken` if more text could help."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        what = f"not valid JSON ({error.msg})"
        raise NotJSONError(f"{what}; {_MEND}", error.lineno, broken=True) from None
    except RecursionError:
        raise NotJSONError(f"not valid JSON (nested too deeply); {_MEND}") from None
    if _is_deep(value, text, start, end):
        raise NotJSONError(f"it nests more than {MOST_DEPTH} levels deep; make it flatter")
    # the search is cheap, the proof is not; a whole pair matches too
    if _HALF.search(text, start, end) and not is_text(value):
        raise NotJSONError(f"it holds half of a surrogate pair, which is no character; {_MEND}")
    return value, end


def is_text(value: Any) -> bool:
    """Whether a JSON value holds only whole characters, so that a file can hold it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_deep(value: Any, text: str, start: int, end: int) -> bool:
    if text.count("[", start, end) + text.count("{", start, end) <= MOST_DEPTH:
        return False
    # one level at a time, since recursion is what a deep value would break
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = []
        for container in containers:
            level += container.values() if isinstance(container, dict) else container
    return True


def space(text: str, start: int) -> int:
    """Where white space that begins at `start` ends."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


_SPACE = re.compile(r"[ \t\n\r]*")


def _constant(name: str) -> Any:
    raise NotJSONError(f"{name} is not valid JSON; write null or a number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise NotJSONError(f"the number {number[:40]} is too large; write null or a smaller one")
    return value


def _whole(number: str) -> int:
    if len(number) > _MOST_DIGITS:
        what = f"not valid JSON for most readers (a number of {len(number):,} digits)"
        raise NotJSONError(f"{what}; write null or a smaller one")
    return int(number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # readers differ in which of two they keep, so neither is
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise NotJSONError(f"the key {twice[:60]!r} stands twice in one object; remove one")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite, parse_int=_whole
)
