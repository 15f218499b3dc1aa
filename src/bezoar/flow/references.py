"""What a component refers to: the strings in its fields whose types say that they are names or
files."""

import dataclasses
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from bezoar.data.source import Source

RefKind = Literal["rows", "model", "backend", "file"]


class Ref(NamedTuple):
    """The field path, what it refers to, the name that stands there, and whether that must give
    scores."""

    path: str
    kind: RefKind
    name: str
    scored: bool = False


def refs(component: Any, at: str = "") -> Iterator[Ref]:
    """Every reference in a component's fields, nested components included."""
    hints = typing.get_type_hints(type(component), include_extras=True)
    for field in dataclasses.fields(component):
        place = f"{at}.{field.name}".lstrip(".")
        needed = field.default is field.default_factory is dataclasses.MISSING
        yield from _refs_in(getattr(component, field.name), hints[field.name], place, needed)


def _refs_in(value: Any, hint: Any, place: str, needed: bool = True) -> Iterator[Ref]:
    """An empty name refers to nothing, unless it stands where there must be one."""
    if dataclasses.is_dataclass(value):
        yield from refs(value, place)
    elif isinstance(value, str):
        kind, *more = _ref_notes(hint) or [None]
        # a word that the key knows beside names
        words = [w for o in _options(hint) if typing.get_origin(o) is Literal for w in get_args(o)]
        if kind and value not in words and (value or needed):
            yield Ref(place, kind, value, bool(more))
    elif isinstance(value, (tuple, list)):
        inner = _inner(hint, 0)
        for index, item in enumerate(value):
            yield from _refs_in(item, inner, f"{place}.{index}")
    elif isinstance(value, dict):
        inner = _inner(hint, 1)
        for name, item in value.items():
            yield from _refs_in(item, inner, f"{place}.{name}")


def _inner(hint: Any, position: int) -> Any:
    for option in _options(hint):
        arguments = typing.get_args(option)
        if typing.get_origin(option) in (tuple, list, dict) and len(arguments) > position:
            return arguments[position]
    return Any


def _options(hint: Any) -> list[Any]:
    return (
        list(typing.get_args(hint))
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else [hint]
    )


def _ref_notes(hint: Any) -> list[Any]:
    """The notes of `bezoar.references` on a type: the kind, and "scores" where a score head is
    needed."""
    for option in _options(hint):
        if typing.get_origin(option) is typing.Annotated:
            return list(typing.get_args(option)[1:])
    return []


def located(component: Any, folder: Path) -> Any:
    """The component with every file field that is a relative path made absolute, against the
    recipe's folder."""
    files = {
        ref.path: os.path.realpath(folder / ref.name)
        for ref in refs(component)
        if ref.kind == "file" and not ref.name.startswith(("bezoar:", "hub:", "package:"))
    }
    placed = _replaced(component, files, "")
    return placed.below(folder) if isinstance(placed, Source) else placed


def with_names(component: Any, names: Mapping[str, str]) -> Any:
    """The component with other names for the stages that it reads, where `names` has them."""
    own = {
        ref.path: names[ref.name]
        for ref in refs(component)
        if ref.kind in ("rows", "model") and ref.name in names
    }
    return _replaced(component, own, "")


def _replaced(value: Any, texts: Mapping[str, str], at: str) -> Any:
    """The value with other texts at these field paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **_replaced(inside, texts, at))
    if isinstance(value, dict):
        return {n: _replaced(v, texts, f"{at}.{n}".lstrip(".")) for n, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_replaced(v, texts, f"{at}.{i}") for i, v in enumerate(value))
    return texts.get(at, value) if isinstance(value, str) else value
