"""The same prompts answered by the start model and by those made of it, side by side."""

from typing import Any

from bezoar.io import Row
from bezoar.parquet import read_parquet
from bezoar.report.charts.frame import key
from bezoar.report.components import bubble, cut, folded, pair, section
from bezoar.report.effects import main_effect
from bezoar.report.formatting import finite, number, signed
from bezoar.report.markup import Markup, breakable, h
from bezoar.report.plain_words import is_share
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard

NUM_QUESTIONS = 8
NUM_PAIRS = 3
"""Pairs that moved towards the better answer, and at most as many that moved away from it."""
OPEN = 4
"""Models whose answers stand side by side."""
MAX_TITLE = 110
SHOWN, LINES = 420, 9
"""Characters and lines of an answer that stand open; the rest opens on a click."""
ANSWERS = "Every evaluated model's answers to the same prompts, with the judge's ratings."
PAIRS = (
    "{pairs} whose margin moved most between {start} and {end}: above 0 a model finds the better"
    " answer likelier."
)
PAIRS_RIGHT = "{pairs} that {start} and {end} judge differently."


def examples(run: Run, board: Scoreboard) -> Markup | None:
    """Answers to the same questions, else pairs of answers whose margin moved most; else None."""
    effect = main_effect(run, board)
    headline = effect.stage.name if effect else ""
    questions, pairs = _answers(board, headline), _pairs(run, board, headline)
    if questions:
        if pairs:
            questions.append(folded("Pairs that moved most", pairs))
        return section("examples", "Examples side by side", ANSWERS, questions)
    if pairs:
        return section("examples", "Examples side by side", None, pairs, terms_of=pairs[0])
    return None


def _answers(board: Scoreboard, headline: str) -> list[Markup]:
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
    return [_question(board, rows, headline, shown=i == 0) for i, rows in enumerate(shown)]


def _category(row: Row) -> str:
    return str(row.get("group") or row.get("category") or "")


def _question(board: Scoreboard, rows: dict[str, Row], headline: str, *, shown: bool) -> Markup:
    row = next(iter(rows.values()))
    turns = as_texts(row.get("question"))
    columns = {
        model: h("div", _heading(index, label, rows[model]), _answers_of(rows[model]))
        for index, (model, label) in enumerate(board.labels.items())
        if model in rows
    }
    user_turns = [bubble("user", text) for text in turns]
    summary = [_title(turns[0] if turns else str(row.get("id"))), h("small", _category(row))]
    # The start model, that of the decision and the last ones; all others can be opened.
    names = list(columns)
    order = dict.fromkeys([*names[:1], *(n for n in names if n == headline), *reversed(names)])
    first = list(order)[:OPEN]
    most = h("div", [column for name, column in columns.items() if name in first], cls="four")
    rest = [column for name, column in columns.items() if name not in first]
    others = folded(f"{len(rest)} more models", h("div", rest, cls="four"))
    return folded(summary, user_turns, most, others if rest else None, shown=shown)


def _title(text: str) -> str:
    return text if len(text) <= MAX_TITLE else text[:MAX_TITLE].rsplit(" ", 1)[0] + " …"


def _heading(index: int, label: str, row: Row) -> Markup:
    ratings = " / ".join(_rating(judgement) for judgement in _judgements(row))
    shown = h("span", ratings, cls="rating", title="ratings of the turns")
    return h("h3", key(index), h("span", breakable(label)), shown)


def _answers_of(row: Row) -> list[Markup]:
    """The answers of one model and, folded, what the judge wrote about them."""
    parts = [_answer(text) for text in as_texts(row.get("answers"))]
    words = []
    for judgement in _judgements(row):
        text = str(judgement.get("text") or judgement.get("reason") or "")
        if text:
            words.append(bubble(f"on turn {judgement.get('turn')}", text, most=800))
    return [*parts, folded("The judge's words", words)] if words else parts


def _answer(text: str) -> Markup:
    """An answer whose beginning is read at once: long ones would bury the next model's."""
    start = "\n".join(text.split("\n")[:LINES])
    start = start if len(start) <= SHOWN * 1.3 else start[:SHOWN].rsplit(" ", 1)[0]
    if start == text:
        return bubble("assistant", text)
    rest = folded("read on", h("div", cut(text[len(start) :].lstrip()), dir="auto", cls="text"))
    shown = h("div", start, " …", dir="auto", cls="text")
    return h("div", h("div", "assistant", cls="role"), shown, rest, cls="bubble assistant")


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


def _pairs(run: Run, board: Scoreboard, headline: str) -> list[Markup]:
    """A sentence, then the pairs; empty if no two models share a margin or the rows are gone."""
    # Margins say most; of reward models it is known which pairs came out right.
    by_margin = [name for name in board.benchmarks if name.endswith("margin")]
    for benchmark in [*by_margin, *(name for name in board.benchmarks if is_share(name))]:
        # The first model that has it, and the one that the decision is about.
        models = [model for model in board.labels if board.items.get((benchmark, model))]
        if len(models) < 2 or (headline and headline not in models[1:]):
            continue
        start, end = models[0], headline or models[-1]
        before, after = board.items[benchmark, start], board.items[benchmark, end]
        moved = {i: after[i] - before[i] for i in before.keys() & after.keys()}
        # Both directions: what got better, and what got worse.
        order = sorted(moved, key=lambda i: (moved[i], i))
        chosen = [i for i in reversed(order) if moved[i] > 0][:NUM_PAIRS]
        chosen += [i for i in order if moved[i] < 0][:NUM_PAIRS]
        rows = _held_out(run, end, chosen)
        if rows:
            say = _margins if benchmark in by_margin else _right
            sentence = PAIRS if benchmark in by_margin else PAIRS_RIGHT
            seen = board.trained_on(end, benchmark)
            pairs = f"Pairs ({board.labels[end]} was {seen})" if seen else "Held-out pairs"
            intro = sentence.format(pairs=pairs, start=board.labels[start], end=board.labels[end])
            shown = [_pair(rows[i], say(before[i], after[i])) for i in chosen if i in rows]
            return [h("p", f"{intro} ({benchmark})", cls="note"), *shown]
    return []


def _held_out(run: Run, model: str, wanted: list[str]) -> dict[str, Row]:
    """Id -> row of the wanted pairs among those that this model was evaluated on."""
    stages = [stage for stage in run.of("evaluate") if stage.inputs.get("model") == model]
    names = [name for stage in stages for path, name in stage.inputs.items() if "rows" in path]
    paths = [stage.path("rows.parquet") for stage in map(run.stage, names) if stage]
    rows = (row for path in paths if path for row in read_parquet(path, fix="run its stage again"))
    return {str(row["id"]): row for row in rows if row.get("chosen") and row["id"] in wanted}


def _margins(before: float, after: float) -> str:
    return f"margin {number(before)} → {number(after)} ({signed(after - before)})"


def _right(before: float, after: float) -> str:
    return "wrong → right" if after > before else "right → wrong"


def _pair(row: Row, what: str) -> Markup:
    prompt = row.get("prompt") or []
    asked = str(prompt[-1].get("content") or "") if prompt else str(row["id"])
    turns = [bubble(str(m.get("role", "")), str(m.get("content") or "")) for m in prompt]
    sides = pair(row, lambda value: list(map(_answer, as_texts(value))))
    return folded([_title(asked), h("small", what)], turns, sides)
