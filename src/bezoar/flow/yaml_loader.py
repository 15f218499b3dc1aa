"""A YAML value to strictly checked dataclasses: every error is one sentence with line and key."""

import dataclasses
import difflib
import json
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

from bezoar.errors import RecipeError, brief
from bezoar.flow.aliases import our_key, our_kind
from bezoar.flow.yaml_document import KeyPath


def dataclasses_in(hint: Any) -> list[Any]:
    """The dataclasses that a value of this type is one of, or a list or table of."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    if typing.get_origin(hint) is typing.ClassVar:
        return []
    return [cls for inner in typing.get_args(hint) for cls in dataclasses_in(inner)]


def reachable_classes(kind: Any) -> set[type]:
    """The dataclasses that a value of this type can hold, at any depth, its own included."""
    classes: set[type] = set()
    waiting = dataclasses_in(kind)
    while waiting:
        cls = waiting.pop()
        if cls not in classes:
            classes.add(cls)
            hints = typing.get_type_hints(cls, include_extras=True).values()
            waiting += [inner for hint in hints for inner in dataclasses_in(hint)]
    return classes


def forbid_extra(kind: Any) -> None:
    """Make pydantic refuse unknown keys and numbers that are not finite, at any depth."""
    for cls in reachable_classes(kind):
        cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]


@cache
def _adapter(kind: Any) -> Any:
    """What checks values of this type. To make one for recipes takes a tenth of a second."""
    from pydantic import TypeAdapter

    forbid_extra(kind)
    return TypeAdapter(kind)


def build(kind: Any, value: Any, *, path: Path, lines: dict[KeyPath, int], at: KeyPath = ()) -> Any:
    """`value`, which stands in `path` at the key `at`, as an instance of the type `kind`.

    RecipeError names file, line, key and, for an unknown key, the nearest one.
    """
    from pydantic import ValidationError

    try:
        # as JSON, since strict pydantic takes a Python list for no tuple, but a JSON array for one
        return _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        # a wrong key explains a missing one, so it is reported first
        first = sorted(error.errors(), key=lambda e: "unexpected" not in e["type"])[0]
    known = _in_value([str(part) for part in first["loc"]], value)
    where = place(path, lines, (*at, *known))
    raise RecipeError(f"{where}: {brief(_sentence(first, known, kind, value))}")


def place(path: Path, lines: dict[KeyPath, int], at: KeyPath) -> str:
    """`FILE:LINE: key.path`, with the line of the nearest key that stands in the file."""
    line = next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), 1)
    return f"{path}:{line}: {'.'.join(at) or 'the recipe'}"


def _in_value(at: list[str], value: Any) -> list[str]:
    """The location without the class names that pydantic puts between the keys."""
    known: list[str] = []
    for index, part in enumerate(at):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif index < len(at) - 1 or not isinstance(value, dict):
            continue
        known.append(part)
    return known


def _sentence(error: Any, known: list[str], kind: Any, value: Any) -> str:
    code = error["type"]
    if "unexpected" in code:
        cls = _class_at(kind, known[:-1], value)
        names = [field.name for field in dataclasses.fields(cls)]
        return f"unknown key; {our_key(known[-1], names) or _hint(known[-1], names, 'keys')}"
    if code in ("missing", "missing_argument"):
        return "this key is needed; add it."
    if code in ("union_tag_invalid", "union_tag_not_found"):
        tag = error["ctx"].get("tag", "")
        tags = str(error["ctx"].get("expected_tags", "")).replace("'", "")
        if tag:
            near = _near(tag, tags.split(", "))
            asked = f"did you mean {near}? " if near else ""
            hint = our_kind(tag, tags.split(", ")) or f"{asked}the kinds here are {tags}."
            return f"unknown kind {brief(repr(tag), 60)}; {hint}"
        return f"the key kind is missing; add {f'one of {tags}' if tags else 'it'}."
    if code == "value_error":
        return str(error["ctx"]["error"]).rstrip(".") + "."
    if fix := _as_table(kind, known, value):
        return f"a kind stands in a table; write {fix}."
    if isinstance(error["input"], list) and known[-1:] == ["rows"]:
        advice = "train on one after the other, the second stage's `model` being the first"
        return f"one stage is named here, not a list; name one stage; {advice}."
    what = error["msg"].replace("Input should be", "must be")
    return f"{what} but is {json.dumps(error['input'], default=str)[:60]}; change the value."


def _as_table(kind: Any, at: list[str], value: Any) -> str:
    """The table to write for a bare kind, such as `objective: {kind: dpo}`; "" for what is none."""
    for key in at[:-1]:
        value, kind = (
            value[int(key)] if isinstance(value, list) else value[key],
            _class_at(kind, [key], value),
        )
    text = value.get(at[-1]) if at and isinstance(value, dict) else None
    if not isinstance(text, str):
        return ""
    name = text.lower()
    known = _kinds_of(_class_at(kind, at[-1:], {at[-1]: {"kind": name}}))
    return f"`{at[-1]}: {{kind: {name}}}`" if name in known else ""


def _hint(name: str, names: list[str], what: str) -> str:
    near = _near(name, names)
    return f"did you mean {near}?" if near else f"the {what} here are {', '.join(names)}."


def _near(name: str, names: list[str]) -> str:
    return next(iter(difflib.get_close_matches(name[:40], names, 1, 0.5)), "")


def _class_at(kind: Any, at: list[str], value: Any) -> Any:
    """The dataclass that the value at the key path `at` is read into."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _class_at(typing.get_args(kind)[0], at, value)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        tag = value.get("kind") if isinstance(value, dict) else None
        by_kind = [option for option in options if tag in _kinds_of(option)]
        return _class_at((by_kind or options)[0], at, value)
    if not at:
        return kind
    inner = value[int(at[0])] if isinstance(value, list) else value[at[0]]
    if dataclasses.is_dataclass(kind):
        return _class_at(typing.get_type_hints(kind, include_extras=True)[at[0]], at[1:], inner)
    arguments = [a for a in typing.get_args(kind) if a is not Ellipsis]
    return _class_at(arguments[-1], at[1:], inner)


def _kinds_of(option: Any) -> tuple[Any, ...]:
    """The values of `kind` that stand for a class."""
    is_class = dataclasses.is_dataclass(option)
    return typing.get_args(typing.get_type_hints(option).get("kind")) if is_class else ()
