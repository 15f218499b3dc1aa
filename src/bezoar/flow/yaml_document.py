"""A YAML file as plain values, and the line of every key: YAML 1.2's core types, bounded before
anchors are written out.

What YAML 1.1 and 1.2 read differently (`010`, `1:30`, `1_000`, `2024-01-01`, `yes` as a value) is
refused, not guessed.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bezoar.errors import DataError, RecipeError
from bezoar.flow.yaml_faults import in_plain_words
from bezoar.reading import read_text

KeyPath = tuple[str, ...]

MOST_BYTES = 1 << 20  # of the file, and of its texts with every anchor written out
MOST_VALUES = 10_000  # with every anchor written out
MOST_DEPTH = 64
MOST_KEY = 200

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_NO_CHARACTER = re.compile(r"[\0\ud800-\udfff]")
_OLD = "tag:yaml.org,2002:"
_OLD_TYPES = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "timestamp": "a date",
}
_INSTEAD = "write true, false or a plain number"


def read_yaml(path: Path) -> tuple[Any, dict[KeyPath, int]]:
    """The value in a YAML file and the line of every key path in it. RecipeError for what is not
    one plain document."""
    try:
        text = read_text(path, MOST_BYTES)
    except DataError as error:
        raise RecipeError(str(error)) from None
    # nodes, not values: only they know their lines, and YAML 1.1's readings are decided later
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        if isinstance(error, _RefusedError):
            raise RecipeError(f"{path}:{line}: {error.problem}.") from None
        line, fault = in_plain_words(error, text)
        raise RecipeError(f"{path}:{line}: not valid YAML ({fault}).") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{path}:{line}: not valid YAML (it holds the character U+{error.character:04X});"
            " remove it."
        ) from None
    if node is None:
        return None, {}
    document = _Document(path)
    return document.value(node, ()), document.lines


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not read."""


class _Loader(yaml.BaseLoader):
    """Nodes whose values are texts. No tags; number and depth are bounded here, since nodes are
    made one by one by recursion."""

    depth = num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, problem = self.peek_event(), ""  # type: ignore[no-untyped-call]
        self.num_nodes += 1
        if tag := getattr(event, "tag", None):
            name = tag.replace(_OLD, "!!")[:60]
            problem = f"the tag {name!r} is not read; write a plain value or put it in quotes"
        elif self.num_nodes > MOST_VALUES:
            problem = f"the file holds more than {MOST_VALUES:,} values; make it smaller"
        elif self.depth >= MOST_DEPTH:
            problem = f"more than {MOST_DEPTH} levels deep; make it flatter"
        if problem:
            raise _RefusedError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass
class _Document:
    """Nodes to values. Anchors are written out, so what they come to is counted on the way."""

    path: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    num_values: int = 0
    num_bytes: int = 0

    def value(self, node: yaml.Node, at: KeyPath) -> Any:
        """The value of a node that stands at the key path `at`."""
        self.lines[at] = node.start_mark.line + 1
        self.count(node, at)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, at)
        # `open` holds the nodes around this one: an anchor among them would never end
        if id(node) in self.open:
            raise self.wrong(node, at, "an anchor holds itself; write out what is meant")
        if len(self.open) >= MOST_DEPTH:
            deep = f"more than {MOST_DEPTH} levels deep with its anchors written out"
            raise self.wrong(node, at, f"{deep}; make it flatter")
        self.open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self.table(node, at)
        else:
            value = [self.value(item, (*at, str(i))) for i, item in enumerate(node.value)]
        self.open.remove(id(node))
        return value

    def count(self, node: yaml.Node, at: KeyPath) -> None:
        """RecipeError when there is too much."""
        self.num_values += 1
        self.num_bytes += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self.num_values > MOST_VALUES or self.num_bytes > MOST_BYTES:
            much = f"{MOST_VALUES:,} values or {MOST_BYTES >> 20} MB of text"
            size = f"with its anchors written out the file holds more than {much}"
            raise self.wrong(node, at, f"{size}; make it smaller")

    def table(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        """A mapping: what `<<` names first, which its own keys replace."""
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if _merges(key):
                merged |= self.merged(value, at)
        # the merged tables were read at this place too and left their own lines there
        self.lines[at] = node.start_mark.line + 1
        own: dict[str, Any] = {}
        for key, value in node.value:
            if _merges(key):
                continue
            name = self.key(key, at)
            if name in own:
                raise self.wrong(key, (*at, name), "the key stands twice; remove one")
            own[name] = self.value(value, (*at, name))
            self.lines[*at, name] = key.start_mark.line + 1
        return {**merged, **own}

    def merged(self, node: yaml.Node, at: KeyPath) -> dict[str, Any]:
        """What stands behind `<<`: a table, or a list of them of which the first wins."""
        parts = reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]
        tables = [self.value(part, at) for part in parts]
        if not all(isinstance(table, dict) for table in tables):
            raise self.wrong(node, at, "<< merges tables; name the anchor of one")
        return {name: value for table in tables for name, value in table.items()}

    def key(self, node: yaml.Node, at: KeyPath) -> str:
        """A key, which is a text of one line."""
        self.count(node, at)
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(node, at, "a key is a list or a table; write a name")
        # `on` and `no` are names, as for YAML 1.2
        name = (
            node.value
            if _old_type(node.value) == "bool" and not _BOOL.fullmatch(node.value)
            else self.scalar(node, at)
        )
        if not isinstance(name, str):
            what = f"the key {_cut(node.value)} is not a text"
            raise self.wrong(node, at, f"{what}; put it in quotes")
        if not name.isprintable() or not 0 < len(name) <= MOST_KEY:
            raise self.wrong(node, at, f"a key has 1 to {MOST_KEY} printable characters; rename it")
        return name

    def scalar(self, node: yaml.ScalarNode, at: KeyPath) -> Any:
        """A text, or by YAML 1.2's core rules null, true, false or a number. Numbers are finite,
        integers have 64 bits."""
        text: str = node.value
        if _NO_CHARACTER.search(text):
            what = "the text holds NUL or half of a surrogate pair, which is no character"
            raise self.wrong(node, at, f"{what}; remove it")
        # what stands in quotes is text, whatever it looks like
        if node.style is not None:
            return text
        if _NULL.fullmatch(text):
            return None
        if match := _BOOL.fullmatch(text):
            return match[1] is not None
        if _INT.fullmatch(text):
            # converting a long number takes quadratic time; it is too large in any case
            number = int(text, 0) if len(text) <= 24 else 1 << 64
            if not -(1 << 63) <= number < 1 << 63:
                advice = "write a smaller number or put it in quotes"
                raise self.wrong(node, at, f"{_cut(text)} is no integer of 64 bits; {advice}")
            return number
        if _LEADING_ZERO.fullmatch(text) or not _FLOAT.fullmatch(text):
            return self.ambiguous(node, at)
        if not math.isfinite(float(text)):
            raise self.wrong(node, at, f"{_cut(text)} is not finite; write a number that is")
        return float(text)

    def ambiguous(self, node: yaml.ScalarNode, at: KeyPath) -> str:
        """A plain text that YAML 1.1 reads as one too."""
        text: str = node.value
        if _NOT_FINITE.fullmatch(text):
            raise self.wrong(node, at, f"{text} is not finite; write a number that is")
        if _LEADING_ZERO.fullmatch(text):
            what = "starts with a zero, which is octal for YAML 1.1 alone"
            advice = "write it without, or 0o10 for 8"
            raise self.wrong(node, at, f"{_cut(text)} {what}; {advice}")
        if kind := _OLD_TYPES.get(_old_type(text)):
            what = f"is {kind} for YAML 1.1 and a text for 1.2"
            raise self.wrong(node, at, f"{_cut(text)} {what}; put it in quotes, or {_INSTEAD}")
        return text

    def wrong(self, node: yaml.Node, at: KeyPath, what: str) -> RecipeError:
        """The error to raise about a node."""
        key = ".".join(at)[:MOST_KEY]
        return RecipeError(
            f"{self.path}:{node.start_mark.line + 1}: {key + ': ' if key else ''}{what}."
        )


def _merges(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.style is None and key.value == "<<"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def _old_type(text: str) -> str:
    """What YAML 1.1 makes of a plain value."""
    tag: str = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag.removeprefix(_OLD)
