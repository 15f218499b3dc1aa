"""What `bezoar explain`, docs/recipes.md and the JSON Schema say about recipes.

All of it is read from the classes: a key is described by the string literal below its field, a kind
by its class docstring, whose first sentence is its summary and whose `Source:` and `Example:` lines
are shown apart.
"""

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from typing import Any, Literal

import yaml

from bezoar.chat.templates import Template
from bezoar.data import SOURCES
from bezoar.errors import RecipeError
from bezoar.evals import EVALUATIONS
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.recipe import RecipeKeys
from bezoar.flow.yaml_loader import dataclasses_in, reachable_classes
from bezoar.judge import FILTERS
from bezoar.launch import LAUNCHES
from bezoar.llm import BACKENDS
from bezoar.synth import SCHEMES
from bezoar.terminal import Console, head, plain
from bezoar.train import TRAININGS
from bezoar.train.objectives import OBJECTIVES
from bezoar.train.rewards import REWARDS

_PLAIN_TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", Any: "any"}
_REFERENCES = {
    ("rows",): "stage with rows",
    ("model",): "model",
    ("model", "scores"): "reward model",
    ("backend",): "backend",
    ("file",): "file",
}
"""What a text with these notes of `bezoar.references` names."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a kind. `default` is YAML, empty for a key that must be given."""

    name: str
    type: str
    default: str
    text: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of component, or one table of settings, as its class describes it."""

    category: str
    name: str
    cls: type

    @cached_property
    def _doc(self) -> dict[str, str]:
        """The class docstring in its parts: text, Source, Example."""
        parts = {"text": "", "Source": "", "Example": ""}
        current = "text"
        for line in inspect.cleandoc(self.cls.__doc__ or "").splitlines():
            name, colon, rest = line.partition(":")
            if colon and name in parts:
                current, line = name, rest.strip()
            parts[current] += f"{line}\n"
        return {name: text.strip() for name, text in parts.items()}

    @property
    def summary(self) -> str:
        """The first sentence of the class docstring."""
        first = re.split(r"(?<=\.)\s|\n\n", self._doc["text"], maxsplit=1)[0]
        return _one_line(first)

    @property
    def text(self) -> str:
        """What follows the first sentence; a paragraph is one line, formulas and lists stay."""
        first, *others = self._doc["text"].split("\n\n")
        paragraphs = [_one_line(first).removeprefix(self.summary).strip()]
        for text in others:
            is_prose = not text.startswith(("    ", "- "))
            paragraphs.append(_one_line(text) if is_prose else text)
        return "\n\n".join(filter(None, paragraphs))

    @property
    def source(self) -> str:
        """The paper that it follows."""
        return _one_line(self._doc["Source"])

    @property
    def example(self) -> str:
        """One YAML flow mapping that loads as it stands."""
        return _one_line(self._doc["Example"])

    @cached_property
    def keys(self) -> list[Key]:
        """The keys in the order of the fields, without `kind`, which is the kind's name."""
        hints = typing.get_type_hints(self.cls, include_extras=True)
        texts = field_docs(self.cls)
        return [
            Key(f.name, type_name(hints[f.name]), _default(f), texts.get(f.name, ""))
            # those that must be given first, wherever a base class puts them
            for f in sorted(dataclasses.fields(self.cls), key=lambda f: bool(_default(f)))
            if f.name != "kind"
        ]


@cache
def all_kinds() -> tuple[Kind, ...]:
    """Every kind by category, in the order in which a recipe goes on, then the tables of settings
    that they hold."""
    sections = {
        name: dataclasses_in(hint)[0]
        for name, hint in typing.get_type_hints(Evaluate).items()
        if dataclasses_in(hint) and name != "launch"
    }
    templates = {cls.kind: cls for cls in dataclasses_in(Template)}
    categories: dict[str, dict[str, type]] = {
        "recipe": {"recipe": RecipeKeys},
        "sources": SOURCES,
        "schemes": SCHEMES,
        "filters": FILTERS,
        "trainings": TRAININGS,
        "objectives": OBJECTIVES,
        "rewards": REWARDS,
        "evaluations": EVALUATIONS,
        "sections": sections,
        "backends": BACKENDS,
        "templates": templates,
        "launches": LAUNCHES,
    }
    # settings are found through the fields that hold them, so that none can be forgotten here
    tables = categories.items()
    kinds = [Kind(cat, name, cls) for cat, table in tables for name, cls in table.items()]
    known = {kind.cls for kind in kinds}
    reachable = {cls for kind in kinds for cls in reachable_classes(kind.cls)}
    specs = sorted(reachable - known, key=lambda cls: cls.__name__)
    return (*kinds, *(Kind("settings", cls.__name__, cls) for cls in specs))


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Name -> the string literal below the field, those of the base classes included.

    A table of settings that has none of its own is described by the summary of its class.
    """
    texts: dict[str, str] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if classes := dataclasses_in(hints[field.name]):
            texts[field.name] = Kind("", "", classes[0]).summary if len(classes) == 1 else ""
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            texts |= dict(_literals_below_fields(base))
    return texts


def _literals_below_fields(cls: type) -> Iterator[tuple[str, str]]:
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    yield field.target.id, _one_line(text)


def type_name(hint: Any) -> str:
    """A field's type in the words of recipes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        name = _REFERENCES.get(tuple(arguments[1:])) or type_name(arguments[0])
        return f"{name} {' and '.join(_bounds(arguments[1:]))}".strip()
    if origin is Literal:
        return " or ".join(map(_yaml, arguments))
    if origin in (typing.Union, types.UnionType):
        kinds = [cls.kind for cls in arguments if hasattr(cls, "kind")]
        if len(kinds) == len(arguments):
            names = ", ".join(kinds)
            return f"table of kind {names}" if len(kinds) <= 12 else "table with a kind"
        return " or ".join(map(type_name, arguments))
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"table: name -> {type_name(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return next(kind.name for kind in all_kinds() if kind.cls is hint)
    return "null" if hint is type(None) else _PLAIN_TYPES[hint]


def _bounds(notes: Iterable[Any]) -> Iterator[str]:
    """What a number may be, in words, by the notes that pydantic reads."""
    for bound in (bound for note in notes for bound in getattr(note, "metadata", ())):
        for name, words in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if hasattr(bound, name):
                yield f"{words} {getattr(bound, name):g}"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(field.default_factory())
    return "" if field.default is dataclasses.MISSING else _yaml(field.default)


def _yaml(value: Any) -> str:
    """A value as YAML on one line; a component of a kind without the keys it has by default."""
    if dataclasses.is_dataclass(value):
        keys = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if kind := keys.get("kind"):
            defaults = {f.name: f.default for f in dataclasses.fields(value)}
            changed = {name: own for name, own in keys.items() if own != defaults[name]}
            keys = {"kind": kind, **changed}
        value = keys
    value = list(value) if isinstance(value, tuple) else value
    listed = yaml.safe_dump([value], default_flow_style=True, width=10**6, sort_keys=False)
    return listed.strip()[1:-1]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def find_kinds(name: str) -> list[Kind]:
    """The kinds of this name; RecipeError names the nearest one when there is none."""
    kinds = [kind for kind in all_kinds() if kind.name.lower() == name.lower()]
    if not kinds:
        near = difflib.get_close_matches(name, [kind.name for kind in all_kinds()], 1, 0)
        raise RecipeError(f"{name}: no such kind; did you mean {near[0]}? See `bezoar explain`.")
    return kinds


def print_kinds(console: Console) -> None:
    """Print every kind with its summary, by category."""
    width = max(len(kind.name) for kind in all_kinds())
    category = ""
    for kind in all_kinds():
        if kind.category != category:
            category = kind.category
            head(category, console)
        console.print(plain(f"{kind.name:{width}}  {kind.summary}"))


def print_kind(name: str, console: Console) -> None:
    """Print what a kind does, its keys, an example and the source."""
    from rich.table import Table

    for kind in find_kinds(name):
        head(f"{kind.name} ({kind.category})", console)
        console.print(plain("\n\n".join(filter(None, [kind.summary, kind.text]))))
        table = Table("key", "type", "default", "meaning")
        for key in kind.keys:
            table.add_row(*map(plain, (key.name, key.type, key.default or "needed", key.text)))
        if kind.keys:
            console.print(table)
        for title, text in (("Example", kind.example), ("Source", kind.source)):
            if text:
                console.print(plain(f"{title}: {text}"))
