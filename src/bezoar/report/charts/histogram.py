"""How a set's values spread: one panel per set, with shared bins so that panels compare."""

from collections.abc import Sequence
from statistics import median

from bezoar.report.charts.frame import Scale, drawing, empty, line, nice_step, numbers, panel, text
from bezoar.report.formatting import count
from bezoar.report.markup import Markup, h

WIDTH, HEIGHT = 270, 98


def bins_over(sets: Sequence[Sequence[object]], num: int = 24) -> list[float]:
    """Edges of about `num` equal bins of round width over all sets."""
    values = sorted(x for part in sets for x in numbers(part))
    if not values:
        return [0.0, 1.0]
    # The last bin also takes the farthest hundredth, else one long row would squeeze all others.
    low, high = values[0], values[min(len(values) - 1, int(len(values) * 0.99))]
    step = nice_step(max(high - low, 1.0) / num)
    # One edge more than bins; the upper one lies above `high`.
    return [step * i for i in range(int(low // step), int(high // step) + 2)]


def bin_counts(values: Sequence[object], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin [edge, next edge); outer values go to the nearest bin."""
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in numbers(values):
        index = int((value - edges[0]) // width)
        counts[max(0, min(len(counts) - 1, index))] += 1
    return counts


def histogram(
    title: str, values: Sequence[object], edges: Sequence[float], *, unit: str = "words"
) -> Markup:
    """One panel with the median marked."""
    known = sorted(numbers(values))
    if not known:
        return empty(title, "holds no rows.")
    counts = bin_counts(known, edges)
    x = Scale(edges[0], edges[-1], 4, WIDTH - 6)
    y = Scale(0, max(counts), HEIGHT - 22, 12)
    middle, longest, rows = median(known), count(known[-1]), f"{count(len(known))} rows"
    summary = f"median {count(middle)} {unit}, longest {longest}, {rows}"
    parts = []
    for i, num in enumerate(counts):
        if num:
            beyond = " and more" if i == len(counts) - 1 and known[-1] >= edges[-1] else ""
            bounds = f"{count(edges[i])} to {count(edges[i + 1])} {unit}{beyond}"
            tooltip = h("title", f"{bounds}: {count(num)} rows")
            left, right = x(edges[i]), x(edges[i + 1])
            size = {"width": max(1.0, right - left - 1), "y": y(num), "height": y(0) - y(num)}
            parts.append(h("rect", tooltip, x=left + 0.5, **size, rx=1, cls="bar c1"))
    parts.append(line((x.start, x.end), (y(0), y(0)), "axis"))
    parts.append(line((x(middle), x(middle)), (6, y(0)), "axis dashed"))
    for pixel, label in x.labels(4):
        # Labels at the two edges are pulled in, else they would be cut off.
        anchor = "start" if pixel < 12 else "end" if pixel > WIDTH - 18 else "middle"
        parts.append(text(pixel, y(0) + 14, label, anchor=anchor))
    spoken = f"{title}: {rows}, median {count(middle)} {unit}"
    return panel([title, h("small", summary)], drawing(WIDTH, HEIGHT, spoken, parts))
