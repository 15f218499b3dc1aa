"""Parts of the page that sections share: section, table, folded part, message bubbles, row card."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bezoar.io import Row
from bezoar.report.formatting import ABSENT, number
from bezoar.report.markup import Child, Markup, breakable, h, join
from bezoar.report.rows import meta
from bezoar.report.terms import explained

MAX_TEXT = 3000
"""Characters of a message that are shown."""
MAX_ANSWERS = 4
NARROW = 5
"""A table of more columns may be wider than its place."""
EMPTY = {"", ABSENT}
Cells = Sequence[Child]


def section(
    anchor: str, title: str, intro: Child, *children: Child, terms_of: Child = None
) -> Markup:
    """A titled part of the page with a sentence that says what it shows.

    The terms in `terms_of`, which may be some of its children, are explained below that sentence.
    """
    lead = h("p", intro, cls="intro") if intro else None
    words = explained(intro, terms_of) if terms_of else None
    return h("section", h("h2", title), lead, words, *children, id=anchor)


def absent(what: str) -> Markup:
    """The place of something that the run does not hold."""
    return h("p", what, cls="absent")


def table(head: Cells, rows: Iterable[Cells], *, foot: Cells = (), words: int = 1) -> Markup:
    """A table whose first `words` columns are words and the others figures, set to the right.

    Columns without any content are left out. On a narrow page each line is a card, in which the
    head of the column stands before each figure.
    """
    lines = [list(row) for row in rows]
    contents = [set(map(join, column)) for column in zip(*lines, strict=True)]
    kept = [i for i, _ in enumerate(head) if not i or not lines or contents[i] - EMPTY]

    def line(cells: Cells, tag: str = "td") -> Markup:
        first = h("th", breakable(cells[0]), scope="row" if tag == "td" else "col")
        return h("tr", first, [cell(tag, i, cells[i]) for i in kept[1:]])

    def cell(tag: str, i: int, content: Child) -> Markup:
        # One element a cell, which stands in a card beside the column's head.
        parts = breakable(content) if tag == "th" else content
        if tag == "td" and not isinstance(content, str):
            parts = h("div", content)
        label = head[i] if tag == "td" and content not in (None, "") else None
        cls, scope = "num" if i >= words else None, "col" if tag == "th" else None
        return h(tag, parts, cls=cls, scope=scope, data_label=label)

    parts = [h("thead", line(head, "th")), h("tbody", map(line, lines))]
    if foot:
        parts.append(h("tfoot", line(foot)))
    # What can be scrolled must be reached by the keyboard.
    reach = {"tabindex": 0, "role": "group", "aria_label": "Table"} if len(kept) > NARROW else {}
    return h("div", h("table", parts), cls="scroll", **reach)


def folded(summary: Child, *children: Child, shown: bool = False) -> Markup:
    """A part that opens on a click."""
    return h("details", h("summary", summary), *children, open=shown)


def cut(text: str, most: int = MAX_TEXT) -> Child:
    """A text, or its beginning and how much is left out."""
    if len(text) <= most:
        return text
    return [text[:most], h("span", f" … {len(text) - most:,} more characters", cls="more")]


def bubble(role: str, content: str, *, most: int = MAX_TEXT) -> Markup:
    """One message."""
    # An unknown role gets the look of a tool; its name is shown as it is.
    kind = role if role in ("system", "user", "assistant", "tool") else "tool"
    body = h("div", "(empty)", cls="text none")
    if content:
        body = h("div", cut(content, most), dir="auto", cls="text")
    return h("div", h("div", role, cls="role"), body, cls=f"bubble {kind}")


def row_card(row: Row) -> Markup:
    """A row to read: its messages, answers side by side, and where it comes from."""
    # 1) The conversation; two answers of a comparison or several sampled ones stand side by side.
    parts: list[Child] = [_bubbles(row.get("messages") or row.get("prompt"))]
    if row.get("chosen") or row.get("rejected"):
        parts.append(pair(row, _bubbles))
    if row.get("answers"):
        answers = enumerate(row["answers"][:MAX_ANSWERS])
        columns = [
            h("div", _numbers(row, i), bubble("assistant", str(text))) for i, text in answers
        ]
        parts.append(h("div", columns, cls="pair"))
    # 2) The judge's verdict, if one was given.
    facts = meta(row)
    verdict, reason = facts.pop("verdict", None), facts.pop("reason", None)
    if verdict is not None:
        tag = h("span", verdict, cls=f"tag {'good' if verdict == 'accept' else 'bad'}")
        why = cut(str(reason or "no reason given"), 600)
        parts.append(h("p", tag, " ", why, cls="verdict"))
    # 3) Everything else that is known of the row goes above it as chips.
    chips = [
        h("span", h("b", name), " ", cut(_short(value), 160), cls="chip")
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    head = h("div", h("code", cut(str(row.get("id", "")), 60)), chips, cls="facts")
    return h("article", head, parts, cls="row")


def pair(row: Row, shown: Callable[[Any], Child]) -> Markup:
    """The two answers of a comparison side by side."""
    columns = [
        h("div", h("div", side, cls=f"side {side}"), shown(row.get(side)))
        for side in ("chosen", "rejected")
    ]
    return h("div", columns, cls="pair")


def _numbers(row: Row, index: int) -> Markup:
    numbers = json.loads(row.get("numbers") or "{}").items()
    shown = [f"{name.replace('_', ' ')} {number(values[index])}" for name, values in numbers]
    return h("div", ", ".join(shown), cls="side")


def _bubbles(messages: Iterable[Row] | None) -> list[Markup]:
    bubbles = []
    for message in messages or []:
        # A message that calls a tool may have no text of its own.
        content, calls = str(message.get("content") or ""), message.get("tool_calls")
        text = "\n".join(filter(None, (content, calls, message.get("tools"))))
        bubbles.append(bubble(str(message.get("role", "")), text))
    return bubbles


def _short(value: object) -> str:
    if isinstance(value, list):
        return " → ".join(_short(item) for item in value)
    return number(value) if isinstance(value, float) else str(value)
