"""Curves over training steps: a dot per step on a line, validation values as marks on a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bezoar.report.charts.frame import Scale, axes, colour, drawing, empty, key, line, marker, panel
from bezoar.report.formatting import count, finite, number
from bezoar.report.markup import Markup, h

WIDTH, HEIGHT = 340, 188
MAX_POINTS = 400
FEW = 40
"""Up to so many single steps are drawn as dots that can be told apart."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """(step, value) pairs in the order of steps; `marked` draws larger marks in place of dots."""

    name: str
    points: Sequence[tuple[object, object]]
    marked: bool = False

    @cached_property
    def known(self) -> list[Point]:
        """The points whose two numbers are finite."""
        pairs = [(finite(step), finite(value)) for step, value in self.points]
        return [(step, value) for step, value in pairs if step is not None and value is not None]

    @property
    def ends(self) -> str:
        """The first and the last value in words."""
        return f"{self.name} from {number(self.known[0][1])} to {number(self.known[-1][1])}"


def line_chart(title: str, curves: Sequence[Curve], *, zero: bool = False) -> Markup:
    """One panel. `zero` draws the line y = 0 and keeps it in view."""
    drawn = [(index, curve) for index, curve in enumerate(curves) if curve.known]
    points = [point for curve in curves for point in curve.known]
    if not points:
        return empty(title, "nothing was logged.")
    # 1) Scales. One spike must not flatten a curve: y leaves out the farthest hundredth each side.
    values = sorted(value for _, value in points)
    cut = len(values) // 100
    shown = values[cut : len(values) - cut]
    x = Scale.over([step for step, _ in points], (46, WIDTH - 10), pad=0.01)
    y = Scale.over(shown, (HEIGHT - 36, 8), pad=0.08, include=(0.0,) if zero else ())
    # 2) Curves above the axes, so that no grid line crosses a curve.
    parts = axes(x, y, x_label="step")
    if zero:
        parts.append(line((x.start, x.end), (y(0), y(0)), "axis"))
    for index, curve in drawn:
        parts += _curve(index, curve, x, y)
    # 3) Words above it. Values that cannot be drawn are counted, never dropped silently.
    names = [h("small", key(index), curve.name) for index, curve in drawn if len(drawn) > 1]
    num_left_out = sum(len(curve.points) for curve in curves) - len(points)
    if num_left_out:
        names.append(h("small", f"{num_left_out} values are not finite", cls="bad"))
    spoken = "; ".join(curve.ends for _, curve in drawn)
    return panel([title, names], drawing(WIDTH, HEIGHT, f"{title}: {spoken}", parts))


def _curve(index: int, curve: Curve, x: Scale, y: Scale) -> list[Markup]:
    points = thinned(curve.known)
    path = "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)
    joined = h("path", d=path, cls=f"line {colour(index)}")
    dots = []
    for step, value in points:
        tooltip = f"{curve.name}, step {count(step)}: {number(value)}"
        if curve.marked:
            dots.append(marker(index, x(step), y(value), tooltip, radius=3.6))
        else:
            place = {"cx": x(step), "cy": y(value), "r": 2.2}
            cls = "raw" if len(points) > FEW else "raw few"
            dots.append(h("circle", h("title", tooltip), **place, cls=f"{cls} {colour(index)}"))
    return [joined, *dots]


def thinned(points: list[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most `most` points, evenly spaced, first and last kept."""
    if len(points) <= most:
        return points
    # More dots than pixels would only make the page large.
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
