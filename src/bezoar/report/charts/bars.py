"""Bars of counts that scale with the page; what they say stands beside them as text."""

from collections.abc import Sequence

from bezoar.report.markup import Markup, h

HEIGHT = 10


def bar(parts: Sequence[tuple[float, str]], most: float) -> Markup:
    """Lengths in a row with their CSS classes; `most` fills the width."""
    left, drawn = 0.0, []
    for length, cls in parts:
        share = 100 * length / most if most else 0.0
        if share:
            place = {"x": f"{left:.2f}%", "width": f"{share:.2f}%", "height": HEIGHT}
            drawn.append(h("rect", **place, cls=cls))
        left += share
    return h("svg", drawn, cls="bars", height=HEIGHT, aria_hidden="true")
