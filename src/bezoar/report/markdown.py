"""Markdown that keeps foreign text in its place: front matter, escaped words, fences that no text
can close."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bezoar.io import Row
from bezoar.report.markup import printable
from bezoar.report.rows import meta

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
MAX_TEXT = 1500


def front_matter(values: dict[str, Any]) -> str:
    """The YAML head of a card."""
    import yaml

    text = yaml.safe_dump(clean(values), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def clean(value: Any) -> Any:
    """A JSON value with printable texts."""
    if isinstance(value, dict):
        return {printable(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def words(text: object, most: int = 200) -> str:
    """One line of text in which nothing is markup."""
    line = " ".join(printable(text).split())
    line = line if len(line) <= most else line[:most] + "…"
    return (
        _SPECIAL.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def fence(text: str, kind: str = "text") -> str:
    """A block of text as it is, in a fence longer than any run of backticks within."""
    shown = printable(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{kind}\n{shown}\n{marks}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; its cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(words(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def row_text(row: Row) -> str:
    """A row to read: each message behind its role, the answers of a comparison behind theirs."""
    parts = [
        (str(m.get("role")), m.get("content"))
        for m in row.get("messages") or row.get("prompt") or []
    ]
    parts += [
        (side, m.get("content")) for side in ("chosen", "rejected") for m in row.get(side) or []
    ]
    facts = ", ".join(f"{name}: {value}" for name, value in meta(row).items())
    lines = [f"[{role}] {_cut(str(content or ''))}" for role, content in parts]
    return "\n".join([*lines, f"({_cut(facts, 400)})"] if facts else lines)


def _cut(text: str, most: int = MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"
