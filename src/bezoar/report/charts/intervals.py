"""Values with their intervals, a line each, drawn on one scale; names and figures are text."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.evals.stats import Score
from bezoar.report.charts.frame import Scale, colour, empty, key, line, marker, panel, text
from bezoar.report.formatting import finite, interval, number, signed
from bezoar.report.markup import Child, Markup, breakable, h

SPAN = (5.0, 95.0)
"""Where the scale begins and ends, in percent of the width."""
HEIGHT = 22
"""Pixels of a line's drawing."""


@dataclass(frozen=True)
class Dot:
    """A value and its interval; each may be absent. `note` stands behind the figures."""

    name: Child
    value: float | None
    low: float | None = None
    high: float | None = None
    note: Child = None
    series: int = 0
    """Decides colour and shape."""

    @classmethod
    def of(cls, name: str, score: Score | None, series: int = 0) -> "Dot":
        """The dot of a score; a dot without a value if there is none."""
        if score is None:
            return cls(name, None, series=series)
        why = h("small", score.reason, cls="note") if score.reason else None
        return cls(name, score.value, score.low, score.high, why, series)


def interval_plot(
    title: Child,
    dots: Sequence[Dot],
    *,
    reference: float | None = None,
    signs: bool = False,
    wide: bool = False,
) -> Markup:
    """One panel; `reference` draws a dashed line (the start model's value, chance, zero).

    With `signs` the figures are differences. A `wide` panel takes the width of the page.
    """
    known = [dot for dot in dots if finite(dot.value) is not None]
    if not known:
        return empty(title, "no model has a value.")
    # The whole intervals are in view, not only the dots.
    bounds = [bound for dot in known for bound in (dot.value, dot.low, dot.high)]
    x = Scale.over(bounds, SPAN, pad=0.04, include=() if reference is None else (reference,))
    rows = []
    for dot in dots:
        value = (signed if signs else number)(dot.value)
        figures = [h("b", value), " ", h("small", interval(dot.low, dot.high)), dot.note]
        name = h("span", key(dot.series), h("span", breakable(dot.name)), cls="name")
        drawn = h("svg", _marks(dot, x, reference), cls="track", height=HEIGHT, aria_hidden="true")
        rows.append(h("div", name, drawn, h("span", figures, cls="figures"), cls="dot"))
    ticks = [text(_share(at), 11, label, anchor="middle") for at, label in x.labels(3)]
    scale = h("svg", ticks, cls="track", height=14, aria_hidden="true")
    return panel(title, [rows, h("div", scale, cls="dot scale")], wide=wide)


def _marks(dot: Dot, x: Scale, reference: float | None) -> list[Markup]:
    middle = (HEIGHT / 2, HEIGHT / 2)
    parts = [line((_share(at), _share(at)), (0, HEIGHT), "grid") for at, _ in x.labels(3)]
    if reference is not None:
        parts.append(line((_share(x(reference)),) * 2, (0, HEIGHT), "axis dashed"))
    value, low, high = finite(dot.value), finite(dot.low), finite(dot.high)
    # Below the marker, which must stay visible.
    if low is not None and high is not None:
        ends = (_share(x(low)), _share(x(high)))
        parts.append(line(ends, middle, f"whisker {colour(dot.series)}"))
    if value is not None:
        # A drawing of its own moves with the width and keeps its shape.
        place = {"x": _share(x(value)), "y": HEIGHT / 2, "width": 1, "height": 1}
        parts.append(h("svg", marker(dot.series, 0, 0), **place, cls="at"))
    return parts


def _share(percent: float) -> str:
    return f"{percent:.2f}%"
