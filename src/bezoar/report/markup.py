"""HTML and SVG as nested calls: every plain string is escaped, so text from a model can never
become markup."""

import html
import re
from collections.abc import Iterable
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_VOID = frozenset({"br", "hr", "meta", "link"})


class Markup(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def printable(text: object) -> str:
    """`text` with U+FFFD for what HTML and UTF-8 cannot hold and for what turns the direction of
    the text after it."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def escape(text: object) -> Markup:
    """Printable `text` as HTML or attribute text."""
    return Markup(html.escape(printable(text), quote=True))


def join(children: Child) -> Markup:
    """Children in a row: Markup as it is, None as nothing, lists flattened, all else escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, (str, int, float)):
        return escape(children)
    return Markup("".join(join(child) for child in children))


def h(name_: str, *children: Child, **attributes: Any) -> Markup:
    """One element. `cls` is the class, `_` in a name stands for `-`, an attribute that is None or
    False is left out."""
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        value = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        parts.append(f" {key}" if value is True else f' {key}="{escape(value)}"')
    opening = f"<{name_}{''.join(parts)}>"
    return Markup(opening if name_ in _VOID else f"{opening}{join(children)}</{name_}>")
