"""Pieces of the page that sections share: section, table, folded part, message bubbles."""

import json
from collections.abc import Iterable, Sequence

from bezoar.io import Row
from bezoar.report.formatting import number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.rows import meta

MAX_TEXT = 3000


def section(anchor: str, title: str, intro: Child, *children: Child) -> Markup:
    """A titled part of the page with a sentence that says what it shows."""
    return h(
        "section",
        h("h2", title),
        h("p", intro, cls="intro") if intro else None,
        *children,
        id=anchor,
    )


def absent(what: str) -> Markup:
    """The place of something that the run does not hold."""
    return h("p", what, cls="absent")


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    foot: Sequence[Child] = (),
    words: int = 1,
) -> Markup:
    """A table whose first `words` columns are words and the others figures, set to the right."""

    def line(cell: str, values: Sequence[Child]) -> Markup:
        return h(
            "tr",
            [
                h(
                    "th" if i == 0 else cell,
                    v,
                    cls="num" if i >= words else None,
                    scope="row" if i == 0 and cell == "td" else None,
                )
                for i, v in enumerate(values)
            ],
        )

    parts = [h("thead", line("th", head)), h("tbody", [line("td", row) for row in rows])]
    if foot:
        parts.append(h("tfoot", line("td", foot)))
    return h("div", h("table", parts), cls="scroll", tabindex=0)


def folded(summary: Child, *children: Child, shown: bool = False) -> Markup:
    """A part that opens on a click."""
    return h("details", h("summary", summary), *children, open=shown)


def cut(text: str, most: int = MAX_TEXT) -> Child:
    """A text, or its beginning and how much is left out."""
    return (
        text
        if len(text) <= most
        else [text[:most], h("span", f" … {len(text) - most:,} more characters", cls="more")]
    )


def bubble(role: str, content: str, *, most: int = MAX_TEXT) -> Markup:
    """One message."""
    kind = role if role in ("system", "user", "assistant", "tool") else "tool"
    said = (
        h("div", cut(content, most), dir="auto", cls="text")
        if content
        else h("div", "(empty)", cls="text none")
    )
    return h("div", h("div", role, cls="role"), said, cls=f"bubble {kind}")


def row_card(row: Row) -> Markup:
    """A row as people read it: its messages, or its prompt with its answers side by side, and its
    provenance."""
    parts: list[Child] = [_bubbles(row.get("messages") or row.get("prompt"))]
    if row.get("chosen") or row.get("rejected"):
        sides = [
            h("div", h("div", side, cls=f"side {side}"), _bubbles(row.get(side)))
            for side in ("chosen", "rejected")
        ]
        parts.append(h("div", sides, cls="pair"))
    if row.get("answers"):
        parts.append(
            h(
                "div",
                [
                    h("div", _numbers(row, i), bubble("assistant", str(text)))
                    for i, text in enumerate(row["answers"][:4])
                ],
                cls="pair",
            )
        )
    facts = meta(row)
    verdict, reason = facts.pop("verdict", None), facts.pop("reason", None)
    if verdict is not None:
        cls = "good" if verdict == "accept" else "bad"
        parts.append(
            h(
                "p",
                h("span", verdict, cls=f"tag {cls}"),
                " ",
                cut(str(reason or "no reason given"), 600),
                cls="verdict",
            )
        )
    chips = [
        h("span", h("b", name), " ", cut(_short(value), 160), cls="chip")
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    return h(
        "article",
        h("div", h("code", cut(str(row.get("id", "")), 60)), chips, cls="facts"),
        parts,
        cls="row",
    )


def _numbers(row: Row, index: int) -> Markup:
    numbers = json.loads(row.get("numbers") or "{}")
    return h(
        "div",
        ", ".join(
            f"{name.replace('_', ' ')} {number(values[index])}" for name, values in numbers.items()
        ),
        cls="side",
    )


def _bubbles(messages: Iterable[Row] | None) -> list[Markup]:
    found = []
    for message in messages or []:
        content, calls = str(message.get("content") or ""), message.get("tool_calls")
        found.append(
            bubble(
                str(message.get("role", "")), f"{content}\n{calls}".strip() if calls else content
            )
        )
    return found


def _short(value: object) -> str:
    if isinstance(value, list):
        return " → ".join(_short(v) for v in value)
    return number(value) if isinstance(value, float) else str(value)
