"""What charts share: the drawing with its title, axes, and markers that differ in shape as well as
colour."""

from bezoar.report.charts.scale import Scale, tick_label
from bezoar.report.markup import Child, Markup, h

NUM_COLOURS = 8
DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4", "6 2 1 2")


def colour(index: int) -> str:
    """The class that sets the colour of series `index`."""
    return f"c{index % NUM_COLOURS}"


def drawing(
    width: float, height: float, label: str, *children: Child, cls: str = "chart"
) -> Markup:
    """An SVG that scales with the page; `label` is what a screen reader says."""
    return h(
        "svg",
        h("title", label),
        *children,
        cls=cls,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, content: str, *, cls: str = "tick", anchor: str = "start") -> Markup:
    """A line of text at its base point."""
    return h("text", content, x=x, y=y, cls=cls, text_anchor=anchor)


def axes(x: Scale, y: Scale, *, x_label: str = "", num_x: int = 5, num_y: int = 4) -> list[Markup]:
    """Horizontal grid lines with labels on the left, labels below; y runs from bottom (`start`) to
    top (`end`)."""
    parts = []
    ticks = y.ticks(num_y)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    for value in ticks:
        at = y(value)
        parts.append(h("line", x1=x.start, x2=x.end, y1=at, y2=at, cls="grid"))
        parts.append(text(x.start - 6, at + 3.5, tick_label(value, step), anchor="end"))
    ticks = x.ticks(num_x)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    parts += [
        text(x(value), y.start + 15, tick_label(value, step), anchor="middle") for value in ticks
    ]
    parts.append(h("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, cls="axis"))
    if x_label:
        parts.append(text(x.end, y.start + 29, x_label, cls="tick unit", anchor="end"))
    return parts


def marker(index: int, x: float, y: float, tooltip: str = "", *, radius: float = 5.0) -> Markup:
    """The mark of series `index`: disc, square, triangle, diamond, then the same again hollow."""
    r = radius
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        2: [(0, -1.1), (1, 0.75), (-1, 0.75)],
        3: [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
    }
    corners = shapes.get(index % 4)
    cls = f"mark {colour(index)}" + (" hollow" if index % 8 >= 4 else "")
    told = h("title", tooltip) if tooltip else None
    if corners is None:
        return h("circle", told, cx=x, cy=y, r=r, cls=cls)
    return h(
        "polygon",
        told,
        points=" ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners),
        cls=cls,
    )


def empty(label: str, reason: str) -> Markup:
    """A chart's place where there is nothing to draw."""
    return h("p", h("b", label), " ", reason, cls="absent")
