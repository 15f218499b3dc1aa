"""What the functions of a catalogue give back: results that depend on their arguments alone.

A result is a table of fields: `= a b +` computes from arguments and numbers in postfix notation,
and any other text is a kind of value (`bezoar.synth.tools.values`), drawn by a hash of the function
and its arguments.
"""

import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any

from bezoar.io import canonical
from bezoar.rng import rng_for
from bezoar.synth.tools.values import draw

# often enough that a model learns to tell an error, seldom enough that it expects a result
_ERROR_SHARE = 0.125


def _rounded(number: float, digits: float) -> float:
    value = round(number, int(digits))
    return int(value) if digits <= 0 or value == int(value) else value


def _days(first: str, second: str) -> int:
    return abs((datetime.date.fromisoformat(second) - datetime.date.fromisoformat(first)).days)


# name -> (number of operands, what it does)
OPERATIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "+": (2, lambda a, b: a + b),
    "-": (2, lambda a, b: a - b),
    "*": (2, lambda a, b: a * b),
    "/": (2, lambda a, b: a / b),
    # overflows for large exponents, where ** would fill the memory with digits
    "^": (2, math.pow),
    "sqrt": (1, math.sqrt),
    "floor": (1, math.floor),
    "ceil": (1, math.ceil),
    "round": (2, _rounded),
    "sum": (1, sum),
    "mean": (1, lambda a: sum(a) / len(a)),
    "min": (1, min),
    "max": (1, max),
    "dot": (2, lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))),
    "last": (2, lambda a, num: a[-num:]),
    "digits_of": (1, lambda a: [int(c) for c in str(abs(a))]),
    "days": (2, _days),
    "occurrences": (2, lambda a, b: a.count(b)),
    "sorted": (2, lambda a, down: sorted(a, reverse=down)),
}


def compute(formula: str, arguments: Mapping[str, Any]) -> Any:
    """The value of a formula in postfix notation. ValueError or another of arithmetic's errors."""
    stack: list[Any] = []
    for word in formula.split():
        # an argument of the name of an operation is the argument
        if word in OPERATIONS and word not in arguments:
            num, operation = OPERATIONS[word]
            if len(stack) < num:
                raise ValueError(f"{word} lacks operands")
            stack[-num:] = [operation(*stack[-num:])]
        else:
            stack.append(look_up(arguments, word) if word[0].isalpha() else _number(word))
    if len(stack) != 1:
        raise ValueError(f"{formula!r} leaves {len(stack)} values")
    value = stack[0]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def look_up(arguments: Mapping[str, Any], path: str) -> Any:
    """The argument at `name` or `name.inner`. KeyError if it is absent."""
    value: Any = arguments
    for name in path.split("."):
        value = value[name]
    return value


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def run_stub(
    name: str, result: Mapping[str, str], arguments: Mapping[str, Any], error: str = ""
) -> dict[str, Any]:
    """The result of a call; `error`, if there is one, in place of it for one call in eight.

    `arguments` hold the defaults of those that were left out. What cannot be computed, such as a
    division by zero, is `{"error": ...}` as well.
    """
    # by the arguments alone: the same call gives the same result in every row and in a chat
    rng = rng_for("stub", name, canonical(dict(arguments)))
    if error and rng.random() < _ERROR_SHARE:
        return {"error": error}
    fields: dict[str, Any] = {}
    for field, kind in result.items():
        if not kind.startswith("= "):
            fields[field] = draw(kind, rng).value
            continue
        try:
            fields[field] = compute(kind[2:], arguments)
        except (ArithmeticError, LookupError, TypeError, ValueError) as fault:
            return {"error": f"The arguments cannot be computed with ({fault})."}
    return fields
