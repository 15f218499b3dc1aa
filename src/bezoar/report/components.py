"""Parts of the page that sections share: section, table, folded part, message bubbles, row card."""

import json
from collections.abc import Iterable, Sequence

from bezoar.io import Row
from bezoar.report.formatting import number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.rows import meta

MAX_TEXT = 3000
"""Characters of a message that are shown."""
MAX_ANSWERS = 4
Cells = Sequence[Child]


def section(anchor: str, title: str, intro: Child, *children: Child) -> Markup:
    """A titled part of the page with a sentence that says what it shows."""
    lead = h("p", intro, cls="intro") if intro else None
    return h("section", h("h2", title), lead, *children, id=anchor)


def absent(what: str) -> Markup:
    """The place of something that the run does not hold."""
    return h("p", what, cls="absent")


def table(head: Cells, rows: Iterable[Cells], *, foot: Cells = (), words: int = 1) -> Markup:
    """A table whose first `words` columns are words and the others figures, set to the right."""

    def line(cells: Cells, tag: str = "td") -> Markup:
        first = h("th", cells[0], scope="row" if tag == "td" else None)
        others = [h(tag, cell) for cell in cells[1:words]]
        return h("tr", first, others, [h(tag, cell, cls="num") for cell in cells[words:]])

    parts = [h("thead", line(head, "th")), h("tbody", [line(row) for row in rows])]
    if foot:
        parts.append(h("tfoot", line(foot)))
    return h("div", h("table", parts), cls="scroll", tabindex=0)


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
        sides = ("chosen", "rejected")
        columns = [
            h("div", h("div", side, cls=f"side {side}"), _bubbles(row.get(side))) for side in sides
        ]
        parts.append(h("div", columns, cls="pair"))
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


def _numbers(row: Row, index: int) -> Markup:
    numbers = json.loads(row.get("numbers") or "{}").items()
    shown = [f"{name.replace('_', ' ')} {number(values[index])}" for name, values in numbers]
    return h("div", ", ".join(shown), cls="side")


def _bubbles(messages: Iterable[Row] | None) -> list[Markup]:
    bubbles = []
    for message in messages or []:
        # A message that calls a tool may have no text of its own.
        content, calls = str(message.get("content") or ""), message.get("tool_calls")
        text = f"{content}\n{calls}".strip() if calls else content
        bubbles.append(bubble(str(message.get("role", "")), text))
    return bubbles


def _short(value: object) -> str:
    if isinstance(value, list):
        return " → ".join(_short(item) for item in value)
    return number(value) if isinstance(value, float) else str(value)
