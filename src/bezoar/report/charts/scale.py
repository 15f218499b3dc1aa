"""From data to pixels: linear scales, round ticks, and lists without what is no number."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bezoar.report.formatting import finite


def numbers(values: Iterable[object]) -> list[float]:
    """The finite numbers among `values`."""
    return [x for x in (finite(value) for value in values) if x is not None]


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to the pixels [start, end] in a straight line; `low < high` always holds for
    a made scale."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls,
        values: Iterable[object],
        start: float,
        end: float,
        *,
        pad: float = 0.05,
        include: tuple[float, ...] = (),
    ) -> "Scale":
        """A scale that shows all finite `values`, with a share `pad` of room; no value at all gives
        [0, 1]."""
        known = [*numbers(values), *include] or [0.0, 1.0]
        low, high = min(known), max(known)
        if high - low <= 1e-12 * max(1.0, abs(high)):
            room = abs(high) * 0.1 or 1.0
            return cls(low - room, high + room, start, end)
        return cls(low - pad * (high - low), high + pad * (high - low), start, end)

    def __call__(self, value: float) -> float:
        """The pixel of `value`, kept within one width outside of the frame so that no coordinate
        overflows."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + max(-1.0, min(2.0, share)) * (self.end - self.start)

    def ticks(self, num: int = 5) -> list[float]:
        """About `num` round values within the scale: steps of 1, 2 or 5 times a power of ten."""
        step = nice_step((self.high - self.low) / max(1, num))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough * (1 - 1e-9)), 10 * power)


def tick_label(value: float, step: float) -> str:
    """A tick with just the decimals that its step needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(value) >= 10_000 and decimals == 0:
        return f"{value / 1000:,.0f}k"
    text = f"{value:,.{decimals}f}" if decimals <= 4 else f"{value:.0e}"
    return "0" if not text.strip("-0.") else text.replace("-", "−")


def smoothed(values: list[float]) -> list[float]:
    """A straight line fitted around each value, nearer neighbours weighing more (tricube, Cleveland
    1979), a sixth of the values to each side.

    Unlike a moving mean it neither lags nor bends at the ends.
    """
    half = max(2, len(values) // 6) + 1
    return [_local_line(values, i, half) for i in range(len(values))]


def _local_line(values: list[float], centre: int, half: int) -> float:
    near = range(max(0, centre - half + 1), min(len(values), centre + half))
    weights = [(1 - (abs(i - centre) / half) ** 3) ** 3 for i in near]
    total = sum(weights)
    mean_x = sum(w * (i - centre) for w, i in zip(weights, near, strict=True)) / total
    mean_y = sum(w * values[i] for w, i in zip(weights, near, strict=True)) / total
    spread = sum(w * (i - centre - mean_x) ** 2 for w, i in zip(weights, near, strict=True))
    joint = sum(
        w * (i - centre - mean_x) * (values[i] - mean_y) for w, i in zip(weights, near, strict=True)
    )
    return mean_y - mean_x * (joint / spread if spread else 0.0)


def thinned(points: list[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most `most` points, evenly spaced, first and last kept."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
