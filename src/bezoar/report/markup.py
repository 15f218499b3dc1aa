"""HTML and SVG as nested calls; plain strings are escaped, so a model's text is never markup."""

import html
import re
from collections.abc import Iterable

# Control characters, bidirectional overrides, lone surrogates and non-characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_VOID = frozenset({"br", "hr", "meta", "link", "wbr"})


class Markup(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def printable(text: object) -> str:
    """`text` with U+FFFD for what UTF-8 cannot hold and for marks that turn the text direction."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def escape(text: object) -> Markup:
    """Printable `text` as HTML or attribute text."""
    return Markup(html.escape(printable(text), quote=True))


def join(children: Child) -> Markup:
    """Children in a row: Markup as it is, None as nothing, lists flattened, all else escaped."""
    if children is None:
        return Markup("")
    # Before the test for str: Markup is one, and must not be escaped twice.
    if isinstance(children, Markup):
        return children
    if isinstance(children, (str, int, float)):
        return escape(children)
    return Markup("".join(map(join, children)))


def h(tag: str, /, *children: Child, **attributes: object) -> Markup:
    """One element. `cls` is the class, `_` in a name becomes `-`; None and False are left out."""
    parts = [f"<{tag}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        if isinstance(value, float):  # a coordinate: two decimals are exact enough
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        parts.append(f" {name}" if value is True else f' {name}="{escape(value)}"')
    opening = "".join(parts) + ">"
    return Markup(opening if tag in _VOID else f"{opening}{join(children)}</{tag}>")


def breakable(name: Child) -> Child:
    """A name in which a line may end after `_`, `/` and the like; anything else as it is."""
    if not isinstance(name, str) or isinstance(name, Markup):
        return name
    first, *others = re.split(r"(?<=[_/.:])(?=\w)", name)
    return [first, [[h("wbr"), part] for part in others]]
