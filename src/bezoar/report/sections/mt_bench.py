"""MT-Bench by category, and the models' answers to the same questions side by side."""

from typing import Any

from bezoar.evals.stats import Score
from bezoar.io import Row
from bezoar.report.charts.frame import marker
from bezoar.report.components import absent, bubble, cut, folded, section, table
from bezoar.report.formatting import ABSENT, count, failures, finite, interval, number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run
from bezoar.report.scores import Scoreboard

NAME = "mt_bench"
NUM_QUESTIONS = 8
INTRO = (
    "Two-turn questions, each answer rated from 1 to 10 by the judge model. A rating is one judge's"
    " opinion."
)


def mt_bench(run: Run, board: Scoreboard) -> Markup | None:
    """None where the recipe asks for no MT-Bench."""
    per = {model: board.parts.get((NAME, model), {}) for model in board.labels}
    if not any(per.values()) and not board.answers:
        asked = any(NAME in stage.fields for stage in run.of("evaluate"))
        return (
            section("mt-bench", "MT-Bench", None, absent("No MT-Bench ratings yet."))
            if asked
            else None
        )
    parts: list[Child] = [_categories(board, per)] if any(per.values()) else []
    parts += (
        [h("h3", "The same questions, every model's answers"), _answers(board)]
        if board.answers
        else []
    )
    return section("mt-bench", "MT-Bench", INTRO, parts)


def _categories(board: Scoreboard, per: dict[str, dict[str, Score]]) -> Markup:
    names = list(dict.fromkeys(category for scores in per.values() for category in scores))
    rows = [_line(c, [per[m].get(c) for m in board.labels]) for c in names]
    turns = [name for name in board.benchmarks if name.startswith(f"{NAME}/")]
    rows += [
        _line(name.removeprefix(f"{NAME}/"), [board.score(name, m) for m in board.labels])
        for name in turns
    ]
    return table(["Category", *board.labels.values()], rows)


def _line(name: str, scores: list[Score | None]) -> list[Child]:
    """A line of the table; n stands at its head where it is the same for all."""
    sizes = {s.n for s in scores if s}
    head = [name, h("small", f"{count(next(iter(sizes)))} ratings") if len(sizes) == 1 else None]
    return [head, *(_cell(score, sized=len(sizes) > 1) for score in scores)]


def _cell(score: Score | None, *, sized: bool) -> Child:
    if score is None or score.value is None:
        return ABSENT
    bounds = interval(score.low, score.high)
    failed = (
        h("small", f"{failures(score.num_failed, score.n)} failed") if score.num_failed else None
    )
    return [
        number(score.value),
        h("small", bounds) if bounds else None,
        h("small", f"{count(score.n)} ratings") if sized else None,
        failed,
    ]


def _answers(board: Scoreboard) -> list[Markup]:
    by_id = {m: {str(row.get("id")): row for row in rows} for m, rows in board.answers.items()}
    order = list(dict.fromkeys(i for rows in by_id.values() for i in rows))
    return [
        _question(board, {m: rows[i] for m, rows in by_id.items() if i in rows}, shown=n == 0)
        for n, i in enumerate(_spread(order, by_id))
    ]


def _spread(order: list[str], by_id: dict[str, dict[str, Row]]) -> list[str]:
    """Questions of different categories first, up to `NUM_QUESTIONS`."""
    first: dict[str, str] = {}
    for i in order:
        row = next(rows[i] for rows in by_id.values() if i in rows)
        first.setdefault(_category(row) or i, i)
    chosen = [*first.values(), *(i for i in order if i not in first.values())][:NUM_QUESTIONS]
    return sorted(chosen, key=order.index)


def _category(row: Row) -> str:
    return str(row.get("group") or row.get("category") or "")


def _question(board: Scoreboard, rows: dict[str, Row], *, shown: bool) -> Markup:
    row = next(iter(rows.values()))
    turns = as_texts(row.get("question"))
    columns = [
        h("div", _heading(index, label, rows[model]), _said(rows[model]))
        for index, (model, label) in enumerate(board.labels.items())
        if model in rows
    ]
    title = turns[0][:110] + ("…" if len(turns[0]) > 110 else "") if turns else str(row.get("id"))
    return folded(
        [title, h("small", _category(row))],
        [bubble("user", text) for text in turns],
        h("div", columns, cls="four"),
        shown=shown,
    )


def _said(row: Row) -> list[Markup]:
    """The answers of one model and, folded, what the judge wrote about them."""
    found = [
        bubble("assistant", text, most=1200)
        for n, text in enumerate(as_texts(row.get("answers")), 1)
    ]
    words = [(j.get("turn"), str(j.get("text") or j.get("reason") or "")) for j in _judgements(row)]
    if any(text for _, text in words):
        found.append(
            folded(
                "The judge's words",
                [bubble(f"on turn {turn}", text, most=800) for turn, text in words if text],
            )
        )
    return found


def _judgements(row: Row) -> list[dict[str, Any]]:
    return [j for j in row.get("judgements") or [] if isinstance(j, dict)]


def _heading(index: int, label: str, row: Row) -> Markup:
    mark = h(
        "svg",
        marker(index, 7, 7),
        cls="key",
        viewBox="0 0 14 14",
        width=14,
        height=14,
        aria_hidden="true",
    )
    told = [_rating(j) for j in _judgements(row)]
    return h(
        "h4",
        mark,
        cut(label, 30),
        h("span", " / ".join(told), cls="rating", title="ratings of the turns"),
    )


def _rating(judgement: dict[str, Any]) -> str:
    value = finite(judgement.get("rating"))
    return (
        str(judgement.get("reason") or "unparsed")
        if value is None
        else f"{value:g}"
        if value == round(value)
        else number(value)
    )


def as_texts(value: object) -> list[str]:
    """One text or several, or messages with a content, as a list of texts."""
    if value is None:
        return []
    if isinstance(value, list):
        return [text for item in value for text in as_texts(item)]
    return (
        [str(value.get("content") or value.get("text") or value)]
        if isinstance(value, dict)
        else [str(value)]
    )
