"""Whether the arguments of a call are those expected, by the AST rules of the Berkeley
Function-Calling Leaderboard.

What is expected is a list of allowed values for each parameter; "" among them says that it may be
left out. All or nothing: the first fault counts.

Source: ShishirPatil/gorilla, bfcl_eval/eval_checker/ast_eval/ast_checker.py (Apache-2.0)
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

FaultKind = Literal[
    "no call",
    "bad JSON",
    "malformed call",
    "needless call",
    "wrong count",
    "wrong name",
    "missing argument",
    "extra argument",
    "wrong type",
    "wrong value",
]
Allowed = Mapping[str, Sequence[Any]]
"""Parameter -> the values that are right for it."""
TYPES: Mapping[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "number": float,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "object": dict,
    "dict": dict,
}
"""The types of JSON Schema and the leaderboard's own -> Python's."""
_IGNORED = re.compile(r"[ ,./\-_*^]")


class Fault(NamedTuple):
    """Why a call is wrong."""

    kind: FaultKind
    detail: str


def argument_fault(
    arguments: Mapping[str, Any], parameters: Mapping[str, Any], allowed: Allowed
) -> Fault | None:
    """The first fault of a call's arguments, None if they are right; `parameters` is the function's
    schema."""
    properties = parameters.get("properties") or {}
    # in the order of the source: which fault comes first is its kind
    for name in parameters.get("required") or ():
        if name not in arguments:
            return Fault("missing argument", f"{name} is required")
    for name, value in arguments.items():
        if name not in properties:
            return Fault("extra argument", f"{name} is no parameter")
        if name not in allowed:
            return Fault("extra argument", f"{name} is not asked for")
        if fault := _value_fault(name, value, properties[name], allowed[name]):
            return fault
    for name, values in allowed.items():
        if name not in arguments and "" not in values:
            return Fault("missing argument", f"{name} is asked for")
    return None


def _value_fault(
    name: str, value: Any, schema: Mapping[str, Any], allowed: Sequence[Any]
) -> Fault | None:
    answer = _answer_type(allowed)
    # a declaration without one plain type leaves it to the answer
    declared = _declared(schema) or answer
    inner = _declared(schema.get("items") or {}) if declared is list else None
    # past the largest float a whole number stays one
    if declared is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    # bool is a kind of int in Python, and must not pass for one
    if type(value) is not declared:
        if answer is None or type(value) is not answer:
            wanted = declared.__name__ if declared else "allowed one"
            return Fault("wrong type", f"{name}: {_shown(value)} is no {wanted}")
    elif inner and not any(_items_fit(value, option, inner) for option in allowed):
        return Fault("wrong type", f"{name}: not every item of {_shown(value)} is {inner.__name__}")
    # an answer of another type than the declared one stands for a variable: compared as it is
    plain = answer not in (None, declared) or type(value) is not declared
    if value in allowed if plain else _is_allowed(value, allowed, inner):
        return None
    return Fault("wrong value", f"{name}: {_shown(value)} is none of {_shown(list(allowed))}")


def _declared(schema: Any) -> type | None:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return TYPES.get(kind) if isinstance(kind, str) else None


def _answer_type(allowed: Sequence[Any]) -> type | None:
    return next((type(option) for option in allowed if option != ""), None)


def _items_fit(value: Any, option: Any, inner: type) -> bool:
    """One level deep, and an option that is no list allows every item, as in the source."""
    if not isinstance(option, list):
        return True
    types = (inner, _answer_type(option))
    return all(type(item) in types for item in value)


def _is_allowed(value: Any, allowed: Sequence[Any], inner: type | None) -> bool:
    if isinstance(value, dict):
        return any(_same_table(value, option) for option in allowed)
    if isinstance(value, list):
        # "" stands for an argument left out, and an empty list is as good
        lists = [option or [] for option in allowed if isinstance(option, list) or option == ""]
        if inner is dict:
            return any(_same_tables(value, option) for option in lists)
        return _each_plain(value) in map(_each_plain, lists)
    return _plain(value) in map(_plain, allowed) if isinstance(value, str) else value in allowed


def _same_tables(value: list[Any], option: list[Any]) -> bool:
    return len(value) == len(option) and all(map(_same_table, value, option))


def _same_table(value: Any, option: Any) -> bool:
    """Whether every key holds one of its allowed values; tables within tables must be equal."""
    if not (isinstance(value, dict) and isinstance(option, dict)):
        return False
    lists = {key: values for key, values in option.items() if isinstance(values, list)}
    if not value.keys() <= lists.keys():
        return False
    return all(
        _plain(value[key]) in map(_plain, values) if key in value else "" in values
        for key, values in lists.items()
    )


def _each_plain(values: list[Any]) -> list[Any]:
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """A string without what the comparison leaves out of account: blanks, marks, case, quotes."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
