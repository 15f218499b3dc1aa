"""A forest plot: how far each model is from the start model, on the same items."""

from dataclasses import replace
from operator import itemgetter

from bezoar.evals.stats import Difference
from bezoar.report.charts.intervals import Dot, interval_plot
from bezoar.report.formatting import count
from bezoar.report.markup import Markup, breakable, h
from bezoar.report.plain_words import is_share
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.siblings import Siblings

INTRO = (
    "The paired difference of each model from {start}, with its 95 % interval. Right of the dashed"
    " line the figure is higher than {start}'s; an interval that crosses the line holds 0."
)


def among_siblings(family: Siblings) -> list[Markup]:
    """The models of one start against the best of them, corrected for their number alone."""
    order = list(family.labels)
    dots = [
        _dot(family.labels[model], difference, order.index(model))
        for model, difference in family.against.items()
        if difference.n
    ]
    if not dots:
        return []
    lead = family.labels[family.leader]
    plot = interval_plot(family.benchmark, dots, reference=0.0, signs=True, wide=True)
    say = INTRO.format(start=lead) + f" {family.sentence[0].upper()}{family.sentence[1:]}."
    title = h("h3", f"The methods against the best of them, {lead}")
    return [title, h("p", say, cls="note"), h("div", plot, cls="charts")]


def differences(board: Scoreboard, benchmarks: list[str]) -> list[Markup]:
    """Shares on one scale, every other benchmark on its own; empty if nothing can be paired."""
    shares: list[tuple[str, Dot]] = []
    panels: list[Markup] = []
    start = next(iter(board.labels), "")
    for benchmark in benchmarks:
        dots = _dots(board, benchmark, start)
        if is_share(benchmark):
            shares += [(benchmark, dot) for dot in dots]
        elif dots:
            panels.append(interval_plot(benchmark, dots, reference=0.0, signs=True, wide=True))
    if shares:
        names = dict(shares)
        title, lines = next(iter(names)), list(map(itemgetter(1), shares))
        if len(names) > 1:
            title = "Shares"
            lines = [
                replace(dot, name=[breakable(dot.name), h("small", breakable(name))])
                for name, dot in shares
            ]
        panels.insert(0, interval_plot(title, lines, reference=0.0, signs=True, wide=True))
    if not panels:
        return []
    intro = INTRO.format(start=board.labels[start])
    title = h("h3", f"Differences from {board.labels[start]}")
    return [title, h("p", intro, cls="note"), h("div", panels, cls="charts")]


def _dots(board: Scoreboard, benchmark: str, start: str) -> list[Dot]:
    """A dot a model; without shared items there is no paired difference to draw."""
    against = board.against(benchmark, start)
    return [
        _dot(label, against[model], series)
        for series, (model, label) in enumerate(board.labels.items())
        if model in against and against[model].n
    ]


def _dot(label: str, difference: Difference, series: int) -> Dot:
    size, verdict = f"n = {count(difference.n)}", difference.verdict
    words = verdict if "n = " in verdict else f"{size}, {verdict}"
    bounds = (difference.difference, difference.low, difference.high)
    return Dot(label, *bounds, note=h("small", words, cls="note"), series=series)
