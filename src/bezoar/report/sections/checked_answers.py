"""What became of each model's answers that programs check: kinds of failure, with examples."""

from typing import Any

from bezoar.io import Row
from bezoar.report.components import bubble, folded, table
from bezoar.report.formatting import ABSENT, count, finite, percent
from bezoar.report.markup import Child, Markup, h
from bezoar.report.scoreboard import Scoreboard

INTRO = (
    "Of all items of a class, what came of the answer: right, or the first thing that is wrong with"
    " it. A needless call is one where no function fits."
)
SECTIONS = {
    "function_calling": "Function calls: what went wrong",
    "checked_answers": "Answers to held-out rows: what went wrong",
}


def checked_answers(board: Scoreboard) -> list[Markup]:
    """What became of answers that programs check, by section of the evaluation."""
    tables = (_of_section(board, section, title) for section, title in SECTIONS.items())
    return [table for table in tables if table is not None]


def _of_section(board: Scoreboard, section: str, title: str) -> Markup | None:
    """A folded table, a line a class, and examples of each kind; None if nothing was checked."""
    facts = {model: _facts(board, model, section) for model in board.labels}
    known = {model: own for model, own in facts.items() if own}
    if not known:
        return None
    # models may have been asked other classes; the order of first sight is kept
    classes = dict.fromkeys(name for own in known.values() for name in _table(own, "kinds"))
    rows = [[name, *(_cell(own, name) for own in known.values())] for name in classes]
    # shares in words need as much room as words
    labels = [board.labels[model] for model in known]
    parts = [h("p", INTRO, cls="note"), table(["Class", *labels], rows, words=len(labels) + 1)]
    for label, own in zip(labels, known.values(), strict=True):
        examples = [
            _example(kind, row)
            for kind, shown in _table(own, "examples").items()
            for row in (shown if isinstance(shown, list) else [])
            if isinstance(row, dict)
        ]
        parts.append(folded(f"Wrong answers of {label}", *examples))
    return folded(title, *parts)


def _facts(board: Scoreboard, model: str, section: str) -> Row:
    facts = board.info(model).get(section)
    return facts if isinstance(facts, dict) else {}


def _table(facts: Row, name: str) -> dict[str, Any]:
    table = facts.get(name)
    return table if isinstance(table, dict) else {}


def _cell(facts: Row, name: str) -> Child:
    """ "58 % right, 20 % no call", most first."""
    kinds = _table(_table(facts, "kinds"), name)
    counts = {kind: num for kind, value in kinds.items() if (num := finite(value))}
    total = sum(counts.values())
    if not total:
        return ABSENT
    # what is right stands first, whatever its share
    order = sorted(counts, key=lambda kind: (kind != "right", -counts[kind]))
    shares = ", ".join(f"{percent(counts[kind], total)} {kind}" for kind in order)
    return [shares, h("small", f"n = {count(total)}")]


def _example(kind: str, row: Row) -> Markup:
    summary = [f"{kind}: {row.get('detail') or ''}", h("small", str(row.get("id") or ""))]
    turns = [bubble("user", str(row.get("asked") or "")), bubble("assistant", str(row.get("text")))]
    return folded(summary, *turns)
