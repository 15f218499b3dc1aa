"""How a set's values spread: one panel a set, all with the same bins, so that panels can be
compared."""

from collections.abc import Sequence

from bezoar.report.charts.frame import colour, drawing, empty, text
from bezoar.report.charts.scale import Scale, nice_step, numbers, tick_label
from bezoar.report.formatting import count
from bezoar.report.markup import Markup, h

WIDTH, HEIGHT = 270, 128


def bins_over(sets: Sequence[Sequence[object]], num: int = 24) -> list[float]:
    """Edges of about `num` equal bins with round widths over all sets; the last bin also takes the
    farthest hundredth above it."""
    values = sorted(x for part in sets for x in numbers(part))
    if not values:
        return [0.0, 1.0]
    low, high = values[0], values[min(len(values) - 1, int(len(values) * 0.99))]
    step = nice_step(max(high - low, 1.0) / num)
    first = int(low // step)
    return [step * i for i in range(first, int(high // step) + 2)]


def bin_counts(values: Sequence[object], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin [edge, next edge); what lies outside goes into the first or
    last bin."""
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in numbers(values):
        index = int((value - edges[0]) // width)
        counts[max(0, min(len(counts) - 1, index))] += 1
    return counts


def histogram(
    title: str,
    values: Sequence[object],
    edges: Sequence[float],
    *,
    index: int = 0,
    unit: str = "words",
) -> Markup:
    """One panel with the median marked."""
    known = sorted(numbers(values))
    if not known:
        return empty(title, "holds no rows.")
    counts = bin_counts(known, edges)
    x = Scale(edges[0], edges[-1], 4, WIDTH - 6)
    y = Scale(0, max(counts), HEIGHT - 22, 42)
    median = (
        known[len(known) // 2]
        if len(known) % 2
        else (known[len(known) // 2 - 1] + known[len(known) // 2]) / 2
    )
    parts = [text(0, 13, title, cls="panel")]
    parts.append(
        text(
            0,
            28,
            f"median {count(median)} {unit}, longest {count(known[-1])}, {count(len(known))} rows",
        )
    )
    for i, num in enumerate(counts):
        if num:
            beyond = " and more" if i == len(counts) - 1 and known[-1] >= edges[-1] else ""
            told = h(
                "title",
                f"{count(edges[i])} to {count(edges[i + 1])} {unit}{beyond}: {count(num)} rows",
            )
            parts.append(
                h(
                    "rect",
                    told,
                    x=x(edges[i]) + 0.5,
                    width=max(1.0, x(edges[i + 1]) - x(edges[i]) - 1),
                    y=y(num),
                    height=y(0) - y(num),
                    rx=1,
                    cls=f"bar {colour(index)}",
                )
            )
    parts.append(h("line", x1=x.start, x2=x.end, y1=y(0), y2=y(0), cls="axis"))
    parts.append(h("line", x1=x(median), x2=x(median), y1=36, y2=y(0), cls="axis dashed"))
    ticks = x.ticks(4)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    parts += [
        text(
            x(t),
            y(0) + 14,
            tick_label(t, step),
            anchor="start" if x(t) < 12 else "end" if x(t) > WIDTH - 18 else "middle",
        )
        for t in ticks
    ]
    return drawing(
        WIDTH, HEIGHT, f"{title}: {count(len(known))} rows, median {count(median)} {unit}", parts
    )
