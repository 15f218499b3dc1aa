"""MT-Bench by category, and the models' answers to the same questions side by side."""

from typing import Any

from bezoar.evals.stats import Score
from bezoar.io import Row
from bezoar.report.charts.frame import marker
from bezoar.report.components import absent, bubble, cut, folded, section, table
from bezoar.report.formatting import ABSENT, count, failures, finite, interval, number
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard

NAME = "mt_bench"
NUM_QUESTIONS = 8
MAX_TITLE = 110
INTRO = (
    "Two-turn questions, each answer rated from 1 to 10 by the judge model. A rating is one judge's"
    " opinion."
)


def mt_bench(run: Run, board: Scoreboard) -> Markup | None:
    """None if the recipe has no MT-Bench."""
    rated = any((NAME, model) in board.parts for model in board.labels)
    if rated or board.answers:
        parts: list[Child] = [_categories(board)] if rated else []
        if board.answers:
            parts += [h("h3", "The same questions, every model's answers"), _answers(board)]
        return section("mt-bench", "MT-Bench", INTRO, parts)
    if any(NAME in stage.fields for stage in run.of("evaluate")):
        return section("mt-bench", "MT-Bench", None, absent("No MT-Bench ratings yet."))
    return None


def _categories(board: Scoreboard) -> Markup:
    parts = [board.parts.get((NAME, model), {}) for model in board.labels]
    # Models may have been rated on different categories; the order of first sight is kept.
    categories = dict.fromkeys(name for scores in parts for name in scores)
    lines = [_line(name, [scores.get(name) for scores in parts]) for name in categories]
    for name in board.benchmarks:
        if name.startswith(f"{NAME}/"):  # the scores of single turns
            scores = [board.score(name, model) for model in board.labels]
            lines.append(_line(name.removeprefix(f"{NAME}/"), scores))
    return table(["Category", *board.labels.values()], lines)


def _line(name: str, scores: list[Score | None]) -> list[Child]:
    """A line of the table; n stands at its head if it is the same for all."""
    sizes = {score.n for score in scores if score}
    size = h("small", f"{count(next(iter(sizes)))} ratings") if len(sizes) == 1 else None
    return [[name, size], *(_cell(score, with_size=len(sizes) > 1) for score in scores)]


def _cell(score: Score | None, *, with_size: bool) -> Child:
    if score is None or score.value is None:
        return ABSENT
    notes = [interval(score.low, score.high)]
    notes += [f"{count(score.n)} ratings"] if with_size else []
    notes += [f"{failures(score.num_failed, score.n)} failed"] if score.num_failed else []
    return [number(score.value), [h("small", note) for note in notes if note]]


def _answers(board: Scoreboard) -> list[Markup]:
    # 1) Question -> model -> its answers; models may have answered different questions.
    questions: dict[str, dict[str, Row]] = {}
    for model, rows in board.answers.items():
        for row in rows:
            questions.setdefault(str(row.get("id")), {})[model] = row
    # 2) One question of every category, then others in their order, up to the limit.
    first: dict[str, str] = {}
    for question_id, rows_by_model in questions.items():
        category = _category(next(iter(rows_by_model.values())))
        first.setdefault(category or question_id, question_id)
    others = [question_id for question_id in questions if question_id not in first.values()]
    chosen = [*first.values(), *others][:NUM_QUESTIONS]
    # 3) In the order of the questions, the first one open.
    shown = [rows for question_id, rows in questions.items() if question_id in chosen]
    return [_question(board, rows, shown=i == 0) for i, rows in enumerate(shown)]


def _category(row: Row) -> str:
    return str(row.get("group") or row.get("category") or "")


def _question(board: Scoreboard, rows: dict[str, Row], *, shown: bool) -> Markup:
    row = next(iter(rows.values()))
    turns = as_texts(row.get("question"))
    title = turns[0] if turns else str(row.get("id"))
    if turns and len(title) > MAX_TITLE:
        title = title[:MAX_TITLE] + "…"
    columns = [
        h("div", _heading(index, label, rows[model]), _answers_of(rows[model]))
        for index, (model, label) in enumerate(board.labels.items())
        if model in rows
    ]
    user_turns = [bubble("user", text) for text in turns]
    summary = [title, h("small", _category(row))]
    return folded(summary, user_turns, h("div", columns, cls="four"), shown=shown)


def _heading(index: int, label: str, row: Row) -> Markup:
    box = {"viewBox": "0 0 14 14", "width": 14, "height": 14}
    mark = h("svg", marker(index, 7, 7), cls="key", **box, aria_hidden="true")
    ratings = " / ".join(_rating(judgement) for judgement in _judgements(row))
    shown = h("span", ratings, cls="rating", title="ratings of the turns")
    return h("h4", mark, cut(label, 30), shown)


def _answers_of(row: Row) -> list[Markup]:
    """The answers of one model and, folded, what the judge wrote about them."""
    parts = [bubble("assistant", text, most=1200) for text in as_texts(row.get("answers"))]
    words = []
    for judgement in _judgements(row):
        text = str(judgement.get("text") or judgement.get("reason") or "")
        if text:
            words.append(bubble(f"on turn {judgement.get('turn')}", text, most=800))
    return [*parts, folded("The judge's words", words)] if words else parts


def _judgements(row: Row) -> list[dict[str, Any]]:
    return [item for item in row.get("judgements") or [] if isinstance(item, dict)]


def _rating(judgement: dict[str, Any]) -> str:
    # A reply without a readable rating shows its reason, never a number.
    value = finite(judgement.get("rating"))
    if value is None:
        return str(judgement.get("reason") or "unparsed")
    return f"{value:g}" if value == round(value) else number(value)


def as_texts(value: object) -> list[str]:
    """One text or several, or messages with a content, as a list of texts."""
    if value is None:
        return []
    if isinstance(value, list):
        return [text for item in value for text in as_texts(item)]
    if isinstance(value, dict):
        return [str(value.get("content") or value.get("text") or value)]
    return [str(value)]
