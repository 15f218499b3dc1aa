"""The models' scores: a panel of dots per benchmark, differences, the table with verdicts."""

from collections.abc import Sequence
from typing import Any

from bezoar.evals.outcome import remarks
from bezoar.evals.stats import Score
from bezoar.report.charts.intervals import Dot, interval_plot
from bezoar.report.components import absent, folded, section, table
from bezoar.report.effects import main_effect
from bezoar.report.formatting import ABSENT, count, failures, interval, number, signed
from bezoar.report.load_scores import read_score
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.checked_answers import checked_answers
from bezoar.report.sections.differences import among_siblings, differences
from bezoar.report.sections.mt_bench import categories
from bezoar.report.sections.revision import revision

INTRO = "The main score of each benchmark with its 95 % interval."
NOTE = (
    "Square brackets hold 95 % intervals. Under each model stands its difference from the first"
    " model, over the items that both answered: ▲ or ▼ where a paired sign-flip test finds it at 5"
    " %, ≈ where the two are not distinguishable. The test is corrected for the number of models"
    " (Holm), not for the number of benchmarks. Where a run holds no items, two scores count as"
    " different only when their intervals do not meet."
)
INJECTION_HEAD = (
    "Words planted at the end of the worse answer",
    "The judge fell for them",
    "Games",
    "Failed",
)


def scores(run: Run, board: Scoreboard) -> Markup | None:
    """Pictures first, then the table, and folded what is not a main score; None without one."""
    waiting = [stage.name for stage in run.of("evaluate") if not stage.done]
    later = absent(f"Not run yet: {', '.join(waiting)}.") if waiting else None
    if not board.cells:
        return None
    # Many benchmarks come in variants (per token, normalised); one of each is enough at first.
    main = main_scores(board)
    others = [name for name in board.benchmarks if name not in main]
    summary = [f"{len(others)} more scores", h("small", ", ".join(others))]
    figures, notes, judges = _table(board, main), _notes(board), _judges(board)
    revised, effect = revision(board), main_effect(run, board)
    return section(
        "scores",
        "Scores",
        f"{INTRO} {_of_start(board)}",
        h("ul", [h("li", sentence) for sentence in board.headline], cls="said"),
        later,
        _panels(board, main),
        differences(board, main),
        among_siblings(effect.siblings) if effect and effect.siblings else None,
        notes,
        revised,
        folded("Every score in figures", figures, h("p", NOTE, cls="note")),
        categories(board),
        checked_answers(board),
        judges,
        folded(summary, _table(board, others), _panels(board, others)) if others else None,
        terms_of=[board.headline, NOTE, figures, notes, revised, judges],
    )


def main_scores(board: Scoreboard) -> list[str]:
    """The benchmarks that stand open.

    A plain log-probability follows the length of an answer: it is folded where an implicit reward
    says what was learnt.
    """
    main = board.main
    learnt = any("/implicit reward" in name for name in main)
    return [name for name in main if not (learnt and "/log-prob" in name)]


def _of_start(board: Scoreboard) -> str:
    start = next(iter(board.labels.values()))
    return f"The dashed line is {start}'s value." if len(board.labels) > 1 else ""


def _table(board: Scoreboard, benchmarks: Sequence[str]) -> Markup:
    rows = []
    for name in benchmarks:
        cells = [_cell(board, name, model) for model in board.labels]
        rows.append([_name(board, name), _verdict(board, name), *cells])
    return table(["Benchmark", "Verdict", *board.labels.values()], rows, words=2)


def _name(board: Scoreboard, benchmark: str) -> list[Child]:
    known = list(board.of(benchmark).values())
    sizes = {score.n for score in known}
    size = f"n = {count(sizes.pop())}" if len(sizes) == 1 else "n differs" if sizes else "no value"
    lower = any(not score.higher_is_better for score in known)
    return [benchmark, h("small", f"{size}, lower is better" if lower else size)]


def _verdict(board: Scoreboard, benchmark: str) -> Child:
    verdict = board.verdict(benchmark)
    if not verdict:
        return h("span", "nothing to compare", cls="same")
    return h("span", board.in_words(verdict), cls="same" if verdict.none else None)


def _cell(board: Scoreboard, benchmark: str, model: str) -> Child:
    score = board.score(benchmark, model)
    if score is None:
        cell = board.cells.get((benchmark, model))
        failed = f"all {count(cell.num_failed)} failed" if cell and cell.num_failed else ""
        note = (cell.reason.partition(": ")[2] if cell else "") or failed
        return [(cell.in_place if cell else "") or ABSENT, h("small", note) if note else None]
    # The size stands at the head of the line if it is the same for all models.
    sizes = {other.n for other in board.of(benchmark).values()}
    notes = [f"n = {count(score.n)}"] if len(sizes) > 1 else []
    notes += [f"{failures(score.num_failed, score.n)} failed"] if score.num_failed else []
    value, bounds = number(score.value), interval(score.low, score.high)
    return [
        h("b", value, cls="lead-cell") if model in board.leaders(benchmark) else value,
        h("small", bounds or score.reason or "no interval", cls="bounds" if bounds else None),
        h("small", ", ".join(notes)) if notes else None,
        _change(board, benchmark, model, score),
    ]


def _change(board: Scoreboard, benchmark: str, model: str, score: Score) -> Child:
    """The difference from the first model that has this score."""
    first = next(iter(board.of(benchmark)))
    difference = board.against(benchmark, first).get(model)
    if difference is None:
        return None
    # A perplexity that falls is an improvement.
    better = (difference.difference > 0) == score.higher_is_better
    cls, mark = ("up", "▲") if better else ("down", "▼")
    if not difference.distinguishable:
        cls, mark = "same", "≈"
    bounds = interval(difference.low, difference.high)
    paired = f"paired over {count(difference.n)} items {bounds}"
    basis = paired if difference.n else "from the two intervals"
    text = f"{mark} {signed(difference.difference)}" if difference.difference else "≈ the same"
    return h("small", text, cls=cls, title=f"against {board.labels[first]}, {basis}")


def _judges(board: Scoreboard) -> list[Markup]:
    """The card of every judge that was examined, once."""
    cards = {}
    for model in board.facts:
        card = board.info(model).get("judge_card") or {}
        if card.get("scores") or card.get("injection"):
            # Several evaluations use the same judge; its hash covers model, prompt and settings.
            cards[card["judge_hash"]] = card
    return [_judge(card) for card in cards.values()]


def _judge(card: dict[str, Any]) -> Markup:
    parts = []
    if card.get("scores"):
        rows = []
        for score in map(read_score, card["scores"]):
            bounds, failed = interval(score.low, score.high), failures(score.num_failed, score.n)
            rows.append([score.name, number(score.value), bounds, count(score.n), failed])
        parts.append(table(["Figure", "Value", "95 % interval", "n", "Failed"], rows))
    if card.get("injection"):
        rows = []
        for line in card["injection"]:
            rows.append([line["words"], *(count(line[key]) for key in ("fell", "games", "failed"))])
        parts.append(table(INJECTION_HEAD, rows))
    return folded([f"The judge {card['judge']}", h("small", f"hash {card['judge_hash']}")], parts)


def _notes(board: Scoreboard) -> list[Markup]:
    """What the facts of each model say beside its scores."""
    return [
        h("p", f"{board.labels[model]}: {sentence}", cls="note")
        for model in board.facts
        for sentence in remarks(board.info(model))
    ]


def _panels(board: Scoreboard, benchmarks: Sequence[str]) -> Markup:
    return h("div", [_panel(board, benchmark) for benchmark in benchmarks], cls="charts c2col")


def _panel(board: Scoreboard, benchmark: str) -> Markup:
    models = list(board.labels.items())
    # A model that was not measured on this benchmark has no line.
    dots = [
        Dot.of(label, board.cells[benchmark, model], series)
        for series, (model, label) in enumerate(models)
        if (benchmark, model) in board.cells
    ]
    start = board.score(benchmark, models[0][0]) if len(models) > 1 else None
    title = [*_name(board, benchmark), " ", h("small", _verdict(board, benchmark))]
    return interval_plot(title, dots, reference=start.value if start else None)
