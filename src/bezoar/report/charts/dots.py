"""Values with their intervals: one panel per benchmark, one line per model."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.evals.stats import Score
from bezoar.report.charts.frame import Scale, colour, drawing, empty, line, marker, text
from bezoar.report.formatting import ABSENT, count, finite, interval, number
from bezoar.report.markup import Markup

WIDTH, LEFT, LINE = 360, 96, 26
"""Pixels: of a panel, of the names at its left, of one model's line."""
MAX_NAME = 14


@dataclass(frozen=True)
class Dot:
    """A value and its interval; each may be absent."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, name: str, score: Score | None) -> "Dot":
        """The dot of a score; a dot without a value if there is none."""
        return cls(name, score.value, score.low, score.high, score.n) if score else cls(name, None)

    @property
    def tooltip(self) -> str:
        """The numbers in words."""
        size = f", n = {count(self.n)}" if self.n is not None else ""
        return f"{self.name}: {number(self.value)} {interval(self.low, self.high)}{size}"


def dot_plot(title: str, dots: Sequence[Dot], *, reference: float | None = None) -> Markup:
    """One panel; `reference` draws a dashed line (chance, zero)."""
    if all(finite(dot.value) is None for dot in dots):
        return empty(title, "no model has a value.")
    height = 34 + LINE * len(dots) + 22
    # The whole intervals are in view, not only the dots.
    bounds = [bound for dot in dots for bound in (dot.value, dot.low, dot.high)]
    include = () if reference is None else (reference,)
    x = Scale.over(bounds, (LEFT, WIDTH - 14), pad=0.06, include=include)
    top, bottom = 26, height - 22
    parts = [text(0, 13, title, cls="panel")]
    for pixel, label in x.labels(5):
        parts.append(line((pixel, pixel), (top, bottom), "grid"))
        parts.append(text(pixel, bottom + 15, label, anchor="middle"))
    if reference is not None:
        parts.append(line((x(reference), x(reference)), (top, bottom), "axis dashed"))
    for index, dot in enumerate(dots):
        parts += _model_line(index, dot, x, 34 + LINE * index + LINE / 2 - 4)
    return drawing(WIDTH, height, f"{title}. " + "; ".join(dot.tooltip for dot in dots), parts)


def _model_line(index: int, dot: Dot, x: Scale, y: float) -> list[Markup]:
    name = dot.name if len(dot.name) <= MAX_NAME else dot.name[: MAX_NAME - 1] + "…"
    parts = [text(LEFT - 12, y + 4, name, cls="name", anchor="end")]
    value, low, high = finite(dot.value), finite(dot.low), finite(dot.high)
    if value is None:
        return [*parts, text(LEFT + 4, y + 4, f"{ABSENT} no value")]
    # Below the marker, which must stay visible.
    if low is not None and high is not None:
        parts.append(line((x(low), x(high)), (y, y), f"whisker {colour(index)}", dot.tooltip))
    return [*parts, marker(index, x(value), y, dot.tooltip)]
