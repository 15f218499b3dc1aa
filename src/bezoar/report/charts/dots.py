"""Values with their intervals: one panel a benchmark, one line a model."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.report.charts.frame import colour, drawing, empty, marker, text
from bezoar.report.charts.scale import Scale, tick_label
from bezoar.report.formatting import ABSENT, count, finite, interval, number
from bezoar.report.markup import Markup, h

WIDTH, LEFT, LINE = 360, 96, 26


@dataclass(frozen=True)
class Dot:
    """A value and its interval; each may be absent."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def told(self) -> str:
        """The tooltip."""
        return f"{self.name}: {number(self.value)} {interval(self.low, self.high)}" + (
            f", n = {count(self.n)}" if self.n is not None else ""
        )


def dot_plot(title: str, dots: Sequence[Dot], *, reference: float | None = None) -> Markup:
    """One panel; `reference` draws a dashed line (chance, zero)."""
    bounds = [bound for dot in dots for bound in (dot.value, dot.low, dot.high)]
    if all(finite(dot.value) is None for dot in dots):
        return empty(title, "no model has a value.")
    height = 34 + LINE * len(dots) + 22
    x = Scale.over(
        bounds, LEFT, WIDTH - 14, pad=0.06, include=() if reference is None else (reference,)
    )
    ticks = x.ticks(5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    bottom = height - 22
    parts = [text(0, 13, title, cls="panel")]
    for value in ticks:
        parts.append(h("line", x1=x(value), x2=x(value), y1=26, y2=bottom, cls="grid"))
        parts.append(text(x(value), bottom + 15, tick_label(value, step), anchor="middle"))
    if reference is not None:
        parts.append(
            h("line", x1=x(reference), x2=x(reference), y1=26, y2=bottom, cls="axis dashed")
        )
    for index, dot in enumerate(dots):
        parts += _line(index, dot, x, 34 + LINE * index + LINE / 2 - 4)
    return drawing(WIDTH, height, f"{title}. " + "; ".join(dot.told for dot in dots), parts)


def _line(index: int, dot: Dot, x: Scale, y: float) -> list[Markup]:
    parts = [text(LEFT - 12, y + 4, shortened(dot.name), cls="name", anchor="end")]
    value, low, high = finite(dot.value), finite(dot.low), finite(dot.high)
    if value is None:
        return [*parts, text(LEFT + 4, y + 4, f"{ABSENT} no value")]
    if low is not None and high is not None:
        parts.append(
            h(
                "line",
                h("title", dot.told),
                x1=x(low),
                x2=x(high),
                y1=y,
                y2=y,
                cls=f"whisker {colour(index)}",
            )
        )
    return [*parts, marker(index, x(value), y, dot.told)]


def shortened(name: str, most: int = 14) -> str:
    """A name that fits beside a panel."""
    return name if len(name) <= most else name[: most - 1] + "…"
