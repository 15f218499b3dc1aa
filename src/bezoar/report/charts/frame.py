"""What the charts share: linear scales with round ticks, the SVG element, axes, markers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bezoar.report.formatting import finite
from bezoar.report.markup import Child, Markup, h

NUM_COLOURS = 8
SAME = 1e-4
"""Values that differ by less than this share of themselves are drawn as equal."""
ONE = (1.0, "")
UNITS = ((1e6, "M"), (1e3, "k"))
Span = tuple[float, float]
Place = float | str
"""A coordinate: pixels, or a share of the width such as "12.5%"."""


def numbers(values: Iterable[object]) -> list[float]:
    """The finite numbers among `values`."""
    return [x for x in map(finite, values) if x is not None]


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] linearly to the pixels [start, end]; `over` makes sure that low < high."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls, values: Iterable[object], pixels: Span, *, pad: float, include: Sequence[float] = ()
    ) -> "Scale":
        """Shows all finite `values` with a share `pad` of room around them; else [0, 1]."""
        known = [*numbers(values), *include] or [0.0, 1.0]
        low, high = min(known), max(known)
        # Equal but for rounding: a wider frame draws a flat line, not noise, with short labels.
        largest = max(abs(low), abs(high))
        equal = high - low <= SAME * largest
        room = (largest * 0.1 or 1.0) if equal else pad * (high - low)
        return cls(low - room, high + room, *pixels)

    def __call__(self, value: float) -> float:
        """The pixel of `value`, at most one width outside the frame so that none overflows."""
        # A spike outside the frame still draws a line to the edge.
        share = (value - self.low) / (self.high - self.low)
        return self.start + max(-1.0, min(2.0, share)) * (self.end - self.start)

    def step(self, num: int = 5, *, whole: bool = False) -> float:
        """Between about `num` round values: 1, 2 or 5 times a power of ten, at most half the scale.

        `whole` gives whole numbers alone: there is no half of a training step.
        """
        width = self.high - self.low
        step = nice_step(width / max(1, num))
        # One tick would say nothing about the scale; a fifth is never rounded up to above a half.
        step = step if step <= width / 2 else nice_step(width / 5)
        return max(1.0, step) if whole else step

    def ticks(self, num: int = 5, *, whole: bool = False) -> list[float]:
        """The multiples of `step` in the scale."""
        step = self.step(num, whole=whole)
        # The small shift keeps a tick that lies on the border but for a rounding error.
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def labels(self, num: int = 5, *, whole: bool = False) -> list[tuple[float, str]]:
        """(pixel, label) of about `num` ticks."""
        ticks = self.ticks(num, whole=whole)
        texts = tick_labels(ticks, self.step(num, whole=whole))
        return list(zip(map(self, ticks), texts, strict=True))


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough * (1 - 1e-9)), 10 * power)


def tick_labels(ticks: Sequence[float], step: float) -> list[str]:
    """Labels in one unit, with just the decimals that a step needs: 0.10, 20k, 1.25M, 2e−5."""
    largest = max(map(abs, ticks), default=0.0)
    if 0 < largest < 0.001 or largest >= 1e9:
        # As many digits as it takes from the first of the largest tick to that of the step.
        digits = max(0, _power(largest) - _power(step))
        return [_plain(_exponent(f"{tick:.{digits}e}")) for tick in ticks]
    unit, letter = next((u for u in UNITS if largest >= 10 * u[0] and step >= u[0] / 1000), ONE)
    decimals = max(0, -_power(step / unit))
    return [_plain(f"{tick / unit:,.{decimals}f}", letter) for tick in ticks]


def _power(value: float) -> int:
    """The power of ten of its first digit."""
    return math.floor(math.log10(value) + 1e-9)


def _exponent(text: str) -> str:
    digits, _, power = text.partition("e")
    return f"{digits}e{int(power)}"


def _plain(label: str, unit: str = "") -> str:
    return label.replace("-", "−") + unit if label.partition("e")[0].strip("-0.") else "0"


def colour(index: int) -> str:
    """The CSS class that sets the colour of series `index`."""
    return f"c{index % NUM_COLOURS}"


def drawing(width: float, height: float, label: str, children: Child) -> Markup:
    """An SVG that scales with the page; a screen reader says `label`."""
    parts = [h("title", label), children]
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": width, "height": height}
    return h("svg", parts, cls="chart", **size, role="img", aria_label=label)


def panel(title: Child, drawn: Child, *, wide: bool = False) -> Markup:
    """A drawing below its title; a `wide` one has more room for names and figures."""
    return h("figure", h("figcaption", title), drawn, cls="plot wide" if wide else "plot")


def text(x: Place, y: float, content: str, *, cls: str = "tick", anchor: str = "start") -> Markup:
    """A line of text at its base point."""
    return h("text", content, x=x, y=y, cls=cls, text_anchor=anchor)


def line(x: tuple[Place, Place], y: Span, cls: str) -> Markup:
    """A straight line from (x[0], y[0]) to (x[1], y[1])."""
    return h("line", x1=x[0], x2=x[1], y1=y[0], y2=y[1], cls=cls)


def axes(x: Scale, y: Scale, *, x_label: str) -> list[Markup]:
    """Grid lines with labels on the left, whole numbers below; y runs from bottom to top."""
    parts = []
    for pixel, label in y.labels(5):
        parts.append(line((x.start, x.end), (pixel, pixel), "grid"))
        parts.append(text(x.start - 6, pixel + 3.5, label, anchor="end"))
    below = x.labels(5, whole=True)
    parts += [text(pixel, y.start + 15, label, anchor="middle") for pixel, label in below]
    parts.append(line((x.start, x.end), (y.start, y.start), "axis"))
    return [*parts, text(x.end, y.start + 29, x_label, cls="tick unit", anchor="end")]


def marker(index: int, x: float, y: float, tooltip: str = "", *, radius: float = 5.0) -> Markup:
    """The mark of series `index`: disc, square, triangle, diamond, then the same again hollow."""
    # Shapes differ as well as colours, for readers who cannot tell the colours apart.
    shapes: dict[int, list[Span]] = {
        1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        2: [(0, -1.1), (1, 0.75), (-1, 0.75)],
        3: [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
    }
    corners = shapes.get(index % 4)
    cls = f"mark {colour(index)}" + (" hollow" if index % 8 >= 4 else "")
    title = h("title", tooltip) if tooltip else None
    if corners is None:
        return h("circle", title, cx=x, cy=y, r=radius, cls=cls)
    points = " ".join(f"{x + dx * radius:.1f},{y + dy * radius:.1f}" for dx, dy in corners)
    return h("polygon", title, points=points, cls=cls)


def key(index: int) -> Markup:
    """The mark of series `index` for a line of text."""
    box = {"viewBox": "0 0 14 14", "width": 14, "height": 14}
    return h("svg", marker(index, 7, 7), cls="key", **box, aria_hidden="true")


def empty(label: Child, reason: str) -> Markup:
    """A chart's place when there is nothing to draw."""
    return h("p", h("b", label), " ", reason, cls="absent")
