"""Markdown from templates: every value is escaped, so that foreign text stays in its place."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bezoar.evals.stats import Score
from bezoar.io import Row
from bezoar.report.formatting import count, failures, number, percent, seconds, usd
from bezoar.report.markup import printable
from bezoar.report.rows import meta

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
MAX_TEXT = 1500
"""Characters of a message that are shown."""


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""

    __slots__ = ()


def words(text: object, most: int = 200) -> Markdown:
    """One line of text in which nothing is markup."""
    # A newline would end a table row or start a heading, so all white space becomes one blank.
    line = " ".join(printable(text).split())
    line = line if len(line) <= most else line[:most] + "…"
    # Backslashes first (they are among the special characters), then what HTML would read.
    line = _SPECIAL.sub(r"\\\1", line)
    return Markdown(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(text: object) -> Markdown:
    """A code span."""
    # Backslashes do not escape within a code span, so a backtick cannot be kept.
    return Markdown(f"`{printable(text).replace('`', chr(39))}`")


def fence(text: str, kind: str = "text") -> Markdown:
    """A block of text as it is, in a fence longer than any run of backticks within."""
    shown = printable(text)
    # A fence ends at the first line with as many backticks as it began with.
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    marks = "`" * max(3, longest + 1)
    return Markdown(f"{marks}{kind}\n{shown}\n{marks}\n")


def front_matter(values: dict[str, Any]) -> Markdown:
    """The YAML head of a card."""
    # Dumped, not written by hand: a text with `---` or a colon stays one value of the head.
    text = yaml.safe_dump(clean(values), sort_keys=False, allow_unicode=True, width=1000)
    return Markdown(f"---\n{text}---\n")


def clean(value: Any) -> Any:
    """A JSON value with printable texts."""
    if isinstance(value, dict):
        return {printable(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """A setting as JSON."""
    return json.dumps(clean(value), ensure_ascii=False)


def bounds(score: Score) -> str:
    """The 95 % interval of a score in words."""
    if score.low is None or score.high is None:
        return "not known"
    return f"{number(score.low)} to {number(score.high)}"


def failed(score: Score) -> str:
    """How many items gave no value."""
    return failures(score.num_failed, score.n)


def row_text(row: Row) -> str:
    """A row to read: each message behind its role, the answers of a comparison behind theirs."""
    turns = [(m.get("role"), m) for m in row.get("messages") or row.get("prompt") or []]
    turns += [(side, m) for side in ("chosen", "rejected") for m in row.get(side) or []]
    lines = [f"[{name}] {_cut(str(m.get('content') or ''), MAX_TEXT)}" for name, m in turns]
    facts = ", ".join(f"{name}: {value}" for name, value in meta(row).items())
    return "\n".join([*lines, f"({_cut(facts, 400)})"] if facts else lines)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


@cache
def _environment() -> Environment:
    """Templates in which what is no `Markdown` is escaped, and a name that is unknown an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        auto_reload=False,
        # A misspelt name stops the card instead of leaving a gap in it.
        undefined=StrictUndefined,
        # Escaping is the rule and `Markdown` the exception: a value that a template forgets to
        # escape is safe.
        finalize=lambda value: value if isinstance(value, Markdown) else words(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (words, code, fence, front_matter, bounds, failed, row_text)
    environment.filters |= {f.__name__: f for f in (*filters, count, number, percent, seconds)}
    environment.filters["json"] = to_json
    environment.filters["usd"] = lambda value: Markdown(usd(value))  # its $ is no formula
    environment.filters["quoted"] = lambda value: Markdown(repr(value))  # as in Python code
    return environment


def render(file: str, **values: Any) -> str:
    """A file of `templates/` with these values."""
    return _environment().get_template(file).render(values)
