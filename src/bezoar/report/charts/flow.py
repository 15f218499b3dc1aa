"""What a step kept and what it dropped, as one bar a step on a common scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bezoar.report.charts.dots import shortened
from bezoar.report.charts.frame import drawing, empty, text
from bezoar.report.formatting import count, percent
from bezoar.report.markup import Markup, h

WIDTH, LEFT, RIGHT, LINE, BAR = 1040, 170, 10, 46, 14
NUM_SHADES, MAX_NAMED = 5, 6


@dataclass(frozen=True)
class Step:
    """Rows kept and rows dropped by reason; `rows_in` is what the step read where that is not their
    sum."""

    name: str
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    rows_in: int | None = None

    @property
    def total(self) -> int:
        """Kept and dropped together."""
        return self.kept + sum(self.dropped.values())


def flow_chart(title: str, steps: Sequence[Step]) -> Markup:
    """A bar a step: kept rows first, then each reason, the largest first; counts stand beside
    it."""
    most = max((step.total for step in steps), default=0)
    if not most:
        return empty(title, "no step has made or read a row.")
    parts: list[Markup] = []
    for i, step in enumerate(steps):
        parts += _bar(step, 6 + LINE * i, (WIDTH - LEFT - RIGHT) / most)
    spoken = "; ".join(f"{s.name}: kept {s.kept} of {s.total}" for s in steps)
    return drawing(WIDTH, 12 + LINE * len(steps), f"{title}. {spoken}", parts, cls="chart wide")


def _bar(step: Step, y: float, per_row: float) -> list[Markup]:
    middle = y + BAR / 2 + 4
    parts = [text(LEFT - 12, middle, shortened(step.name, 22), cls="name", anchor="end")]
    pieces = [("kept", step.kept, "kept")]
    reasons = sorted(step.dropped.items(), key=lambda pair: (-pair[1], pair[0]))
    pieces += [
        (reason, num, f"d{min(i, NUM_SHADES - 1)}") for i, (reason, num) in enumerate(reasons)
    ]
    x = float(LEFT)
    for reason, num, cls in pieces:
        if num > 0:
            width = num * per_row
            told = h(
                "title",
                f"{step.name}, {reason}: {count(num)} of {count(step.total)}"
                f" ({percent(num, step.total)})",
            )
            parts.append(
                h(
                    "rect",
                    told,
                    x=x,
                    y=y,
                    width=max(1.0, width - 1),
                    height=BAR,
                    rx=2,
                    cls=f"piece {cls}",
                )
            )
            x += width
    return [*parts, text(LEFT, y + BAR + 15, _note(step, reasons), cls="tick")]


def _note(step: Step, reasons: Sequence[tuple[str, int]]) -> str:
    share = f" of {count(step.total)} ({percent(step.kept, step.total)})" if step.dropped else ""
    source = f", from {count(step.rows_in)} seeds" if step.rows_in is not None else ""
    named = [f"{count(num)} {reason}" for reason, num in reasons if num]
    told = f"kept {count(step.kept)}{share}{source}" + (
        "; " + ", ".join(named[:MAX_NAMED]) if named else ""
    )
    return told + (f", {len(named) - MAX_NAMED} more reasons" if len(named) > MAX_NAMED else "")
