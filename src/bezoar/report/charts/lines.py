"""Curves over steps: raw points, a smoothed line through them, and validation values as marks on a
line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.report.charts.frame import axes, colour, drawing, empty, marker, text
from bezoar.report.charts.scale import Scale, smoothed, thinned
from bezoar.report.formatting import count, finite, number
from bezoar.report.markup import Markup, h

WIDTH, HEIGHT = 360, 210
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """(step, value) pairs by step: pale points under a smoothed line, marks joined by a line, or
    (exact values) the line alone."""

    name: str
    points: Sequence[tuple[object, object]]
    style: Literal["smoothed", "marked", "exact"] = "smoothed"

    @property
    def known(self) -> list[Point]:
        """The points whose two numbers are finite."""
        pairs = [(finite(x), finite(y)) for x, y in self.points]
        return [(x, y) for x, y in pairs if x is not None and y is not None]


def line_chart(
    title: str, curves: Sequence[Curve], *, x_label: str = "step", zero: bool = False
) -> Markup:
    """One panel. `zero` draws the line y = 0 and keeps it in view. What is not finite is left out
    and counted below the title."""
    known = [curve.known for curve in curves]
    points = [point for part in known for point in part]
    if not points:
        return empty(title, "nothing was logged.")
    x = Scale.over([p[0] for p in points], 46, WIDTH - 10, pad=0.01)
    y = Scale.over(_shown(known), HEIGHT - 36, 30, pad=0.08, include=(0.0,) if zero else ())
    parts = axes(x, y, x_label=x_label)
    if zero:
        parts.append(h("line", x1=x.start, x2=x.end, y1=y(0), y2=y(0), cls="axis"))
    for index, (curve, part) in enumerate(zip(curves, known, strict=True)):
        parts += _curve(index, curve, thinned(part), x, y)
    num_left_out = sum(len(curve.points) for curve in curves) - len(points)
    parts.append(text(0, 13, title, cls="panel"))
    parts += _names(
        [curve.name for curve, part in zip(curves, known, strict=True) if part],
        [i for i, part in enumerate(known) if part],
    )
    if num_left_out:
        parts.append(text(46, HEIGHT - 7, f"{num_left_out} values are not finite", cls="tick bad"))
    return drawing(WIDTH, HEIGHT, f"{title}: {_spoken(curves, known)}", parts)


def _shown(known: list[list[Point]]) -> list[float]:
    """The values that set the y axis: all but the farthest hundredth on each side, so that one
    spike does not flatten a curve."""
    values = sorted(y for part in known for _, y in part)
    cut = len(values) // 100
    return values[cut : len(values) - cut]


def _curve(index: int, curve: Curve, points: list[Point], x: Scale, y: Scale) -> list[Markup]:
    if not points:
        return []
    values = (
        smoothed([p[1] for p in points]) if curve.style == "smoothed" else [p[1] for p in points]
    )
    path = "M" + "L".join(
        f"{x(px):.1f} {y(value):.1f}" for (px, _), value in zip(points, values, strict=True)
    )
    line = h("path", d=path, cls=f"line {colour(index)}")
    if curve.style == "marked":
        return [
            line,
            *(marker(index, x(px), y(py), _told(curve, px, py), radius=3.6) for px, py in points),
        ]
    dots = [
        h(
            "circle",
            h("title", _told(curve, px, py)),
            cx=x(px),
            cy=y(py),
            r=2.2,
            cls=f"raw {colour(index)}",
        )
        for px, py in points
    ]
    return [*dots, line] if curve.style == "smoothed" or len(points) == 1 else [line]


def _told(curve: Curve, x: float, y: float) -> str:
    return f"{curve.name}, step {count(x)}: {number(y)}"


def _names(names: list[str], indices: list[int]) -> list[Markup]:
    """The legend of two curves or more, set from the right end of the title's line."""
    parts: list[Markup] = []
    if len(names) < 2:
        return parts
    at = WIDTH - 10.0
    for index, name in reversed(list(zip(indices, names, strict=True))):
        at -= 6.1 * len(name) + 4
        parts += [marker(index, at - 6, 9, radius=3.6), text(at, 13, name, cls="tick")]
        at -= 22
    return parts


def _spoken(curves: Sequence[Curve], known: list[list[Point]]) -> str:
    said = [
        f"{c.name} from {number(part[0][1])} to {number(part[-1][1])}"
        for c, part in zip(curves, known, strict=True)
        if part
    ]
    return "; ".join(said)
