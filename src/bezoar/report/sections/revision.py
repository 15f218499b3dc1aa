"""What revising did to answers: the win rate over the originals by iteration, and what failed."""

from typing import Any

from bezoar.report.charts.intervals import Dot, interval_plot
from bezoar.report.markup import Markup, h
from bezoar.report.scoreboard import Scoreboard

INTRO = (
    "The share of wins of revised answers over the original ones, both orders, ties half, with its"
    " 95 % interval; the dashed line is one half. An answer that was not changed is a tie. No"
    " position: by the judge's probabilities, with what it adds to the answer shown first taken"
    " out."
)


def revision(board: Scoreboard) -> Markup | None:
    """A panel per model; None if nothing was revised."""
    panels = []
    for model in board.labels:
        facts = board.info(model).get("revision")
        if isinstance(facts, dict):
            panels.append(_panel(board, model, facts))
    if not panels:
        return None
    plots = h("div", panels, cls="charts c2col")
    return h("div", h("h3", "Revision"), h("p", INTRO, cls="note"), plots)


def _panel(board: Scoreboard, model: str, facts: dict[str, Any]) -> Markup:
    dots, notes = [], []
    for iteration, counts in enumerate(facts.get("iterations") or [], 1):
        win_rate = board.score(f"revision {iteration}/win rate", model)
        dots.append(Dot.of(f"iteration {iteration}", win_rate))
        free_of_position = board.score(f"revision {iteration}/win rate/free of position", model)
        # Only known if the judge's probabilities were read.
        if free_of_position:
            dots.append(Dot.of("no position", free_of_position))
        reasons = [f"{num} {reason}" for reason, num in (counts.get("reasons") or {}).items()]
        not_revised = f"; not revised: {', '.join(reasons)}" if reasons else ""
        equal = f"{counts.get('identical')} equal to the original"
        notes.append(f"Iteration {iteration}: {equal}{not_revised}. ")
    if facts.get("not_made"):
        notes.append(f"Stopped: {facts['stopped']}.")
    plot = interval_plot(board.labels[model], dots, reference=0.5)
    return h("div", plot, h("p", notes, cls="note"))
