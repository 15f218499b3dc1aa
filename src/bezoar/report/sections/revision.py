"""What criticising and revising did to answers: the win rate over the originals by iteration, and
what was not made."""

from typing import Any

from bezoar.report.charts.dots import Dot, dot_plot
from bezoar.report.components import section
from bezoar.report.markup import Markup, h
from bezoar.report.scores import Scoreboard

INTRO = (
    "The share of wins of revised answers over the original ones, both orders, ties half, with its"
    " 95 % interval; the dashed line is one half. An answer that was not changed is a tie. No"
    " position: by the judge's probabilities, with what it adds to the answer shown first taken"
    " out."
)


def revision(board: Scoreboard) -> Markup | None:
    """A panel a model; None where nothing was revised."""
    facts = {
        model: (board.facts.get(model, {}).get("info") or {}).get("revision")
        for model in board.labels
    }
    panels = [
        _panel(board, model, known) for model, known in facts.items() if isinstance(known, dict)
    ]
    return (
        section("revision", "Revision", INTRO, h("div", panels, cls="charts c3col"))
        if panels
        else None
    )


def _panel(board: Scoreboard, model: str, facts: dict[str, Any]) -> Markup:
    dots, notes = [], []
    for number, counts in enumerate(facts.get("iterations") or [], 1):
        for name, kind in (
            (f"iteration {number}", "win rate"),
            ("no position", "win rate/free of position"),
        ):
            score = board.score(f"revision {number}/{kind}", model)
            if score or kind == "win rate":
                dots.append(
                    Dot(name, score.value, score.low, score.high, score.n)
                    if score
                    else Dot(name, None)
                )
        reasons = ", ".join(
            f"{num} {reason}" for reason, num in (counts.get("reasons") or {}).items()
        )
        notes.append(
            f"Iteration {number}: {counts.get('identical')} equal to the original"
            + (f"; not revised: {reasons}" if reasons else "")
            + ". "
        )
    stopped = f"Stopped: {facts['stopped']}." if facts.get("not_made") else ""
    return h(
        "div",
        dot_plot(board.labels[model], dots, reference=0.5),
        h("p", *notes, stopped, cls="note"),
    )
