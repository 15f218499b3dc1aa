import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from bezoar.report.charts.bars import bar
from bezoar.report.charts.frame import Scale, nice_step, tick_labels
from bezoar.report.charts.histogram import bin_counts, bins_over, histogram
from bezoar.report.charts.intervals import Dot, interval_plot
from bezoar.report.charts.lines import Curve, line_chart, thinned

NAN, INF = float("nan"), float("inf")


def numbers_of(svg: str) -> list[float]:
    """Every coordinate of a drawing, which must be well-formed XML."""
    root = ET.fromstring(svg)
    found = []
    for node in root.iter():
        for name in (
            "x",
            "y",
            "x1",
            "x2",
            "y1",
            "y2",
            "cx",
            "cy",
            "width",
            "height",
            "points",
            "d",
        ):
            found += [
                float(n)
                for n in re.findall(
                    r"-?\d+(?:\.\d+)?", node.get(name, "") if node is not root else ""
                )
            ]
    return found


def test_scale_maps_ends_and_middle() -> None:
    scale = Scale.over([0, 10], (100, 200), pad=0)
    assert [scale(0), scale(5), scale(10)] == [100, 150, 200]


@pytest.mark.parametrize(
    "values",
    [[], [NAN], [3.0], [0.0, 0.0], [5e-324], [1e300, 1e300], [INF, 2.0], [None, "x", True]],
)
def test_scale_of_degenerate_values_has_width(values: list[object]) -> None:
    scale = Scale.over(values, (0, 100), pad=0.05)
    assert scale.low < scale.high
    assert all(math.isfinite(scale(t)) for t in scale.ticks())


def test_scale_keeps_far_values_near_the_frame() -> None:
    assert Scale(0, 1, 0, 100)(1e30) == 200


def test_ticks_are_round_and_inside() -> None:
    ticks = Scale(0.13, 0.87, 0, 1).ticks(4)
    assert [round(t, 10) for t in ticks] == [0.2, 0.4, 0.6, 0.8]
    assert nice_step(0.03) == pytest.approx(0.05)


def test_tick_labels_have_the_decimals_of_their_step() -> None:
    assert tick_labels([-0.05, 0.0, 0.05, 0.1], 0.05) == ["−0.05", "0", "0.05", "0.10"]
    assert tick_labels([10_000, 15_000, 20_000], 5000) == ["10k", "15k", "20k"]
    assert tick_labels([10_000, 10_500, 11_000], 500) == ["10.0k", "10.5k", "11.0k"]
    assert tick_labels([0, 2e-5, 4e-5], 2e-5) == ["0", "2e−5", "4e−5"]
    assert tick_labels([1.2e-5, 1.25e-5], 5e-7) == ["1.20e−5", "1.25e−5"]
    assert tick_labels([4.7], 0.1) == ["4.7"]


@pytest.mark.parametrize("power", range(-9, 12))
@pytest.mark.parametrize("start", [0.0, 1.0, 0.693, 4.7])
@pytest.mark.parametrize("width", [1e-5, 2e-4, 0.013, 0.5, 3.0])
def test_no_two_ticks_have_one_label(power: int, start: float, width: float) -> None:
    values = [start * 10.0**power, (start + width) * 10.0**power]
    labels = [label for _, label in Scale.over(values, (0, 100), pad=0.05).labels(4)]
    assert 2 <= len(labels) == len(set(labels))
    assert max(map(len, labels)) <= 9  # the room left of a chart


@pytest.mark.parametrize("steps", [[1], [1, 2], [0, 1, 2, 3], [0, 10], list(range(1, 61)), [7e4]])
def test_steps_are_whole(steps: list[float]) -> None:
    svg = line_chart("loss", [Curve("training", [(step, 0.5) for step in steps])])
    root = ET.fromstring(svg)
    below = [n.text for n in root.iter("text") if n.get("text-anchor") == "middle"]
    assert below
    assert len(set(below)) == len(below)
    assert all(re.fullmatch(r"[\d,]+k?", str(label)) for label in below)


def test_thinning_keeps_first_and_last() -> None:
    points = [(float(i), 0.0) for i in range(5000)]
    thin = thinned(points)
    assert (len(thin), thin[0], thin[-1]) == (400, points[0], points[-1])


def test_line_chart_says_how_many_values_are_not_finite() -> None:
    svg = line_chart("loss", [Curve("training", [(1, 2.0), (2, NAN), (3, INF), (4, 1.0)])])
    assert "2 values are not finite" in svg
    assert "nan" not in svg.lower()
    assert numbers_of(svg)


@pytest.mark.parametrize(
    "points",
    [[(1, 0.5)], [(1, 0.5), (1, 0.5)], [(0, 0.0), (1, 1e12)], [(i, i % 7) for i in range(2000)]],
)
@pytest.mark.parametrize("marked", [False, True])
def test_line_charts_stay_in_their_frame(points: list[tuple[int, float]], marked: bool) -> None:
    svg = line_chart("loss", [Curve("training", points, marked)], zero=True)
    assert all(-1000 < n < 1000 for n in numbers_of(svg))


@pytest.mark.parametrize("curves", [[], [Curve("a", [])], [Curve("a", [(1, None), (2, "x")])]])
def test_a_chart_of_nothing_says_so(curves: list[Curve]) -> None:
    assert "nothing was logged" in line_chart("loss", curves)


def test_dots_stand_in_the_order_of_their_values() -> None:
    markup = interval_plot(
        "acc",
        [Dot("a", 0.2, 0.1, 0.3), Dot("b", 0.6, 0.5, 0.7), Dot("c", None), Dot("d", 0.4)],
        reference=0.2,
    )
    root = ET.fromstring(markup)
    ends = [
        (float(n.get("x1", "").rstrip("%")), float(n.get("x2", "").rstrip("%")))
        for n in root.iter("line")
        if "whisker" in n.get("class", "")
    ]
    assert len(ends) == 2
    assert 0 <= ends[0][0] < ends[0][1] < ends[1][0] < ends[1][1] <= 100
    # the start model's line passes through its own dot, in every model's drawing
    dashed = [n.get("x1") for n in root.iter("line") if "dashed" in n.get("class", "")]
    dots = [n.get("x") for n in root.iter("svg") if n.get("class") == "at"]
    assert dashed == [dots[0]] * 4
    said = " ".join(" ".join(root.itertext()).split())
    assert "a 0.200 [0.100, 0.300] b 0.600 [0.500, 0.700] c – d 0.400" in said


def test_differences_have_signs() -> None:
    markup = interval_plot("acc", [Dot("a", 0.2), Dot("b", -0.1)], reference=0.0, signs=True)
    assert "+0.200" in markup
    assert "−0.100" in markup


def test_dots_with_one_point_and_none() -> None:
    assert 'x="50.00%"' in interval_plot("acc", [Dot("a", 0.0, 0.0, 0.0)])
    assert "no model has a value" in interval_plot("acc", [Dot("a", None), Dot("b", NAN)])


def test_a_bar_adds_up_to_its_share() -> None:
    root = ET.fromstring(bar([(20, "kept"), (0, "none"), (30, "dropped")], 100))
    assert [(n.get("class"), n.get("x"), n.get("width")) for n in root] == [
        ("kept", "0.00%", "20.00%"),
        ("dropped", "20.00%", "30.00%"),
    ]
    assert len(ET.fromstring(bar([(0, "kept")], 0))) == 0


def test_bins_count_every_value_once() -> None:
    sets = [[1, 2, 3, 50, 51], [10_000], list(range(300))]
    edges = bins_over(sets)
    assert len({round(b - a, 9) for a, b in pairwise(edges)}) == 1
    for values in sets:
        assert sum(bin_counts(values, edges)) == len(values)
    assert bin_counts([edges[0], edges[1]], edges)[:2] == [1, 1]


@pytest.mark.parametrize("values", [[], [NAN], [7], [0, 0, 0]])
def test_histograms_of_degenerate_sets(values: list[float]) -> None:
    shown = histogram("words", values, bins_over([values]))
    assert "holds no rows" in shown if not values or values[0] != values[0] else numbers_of(shown)


def test_histogram_states_the_median() -> None:
    assert "median 3 words" in histogram("set", [1, 3, 100], bins_over([[1, 3, 100]]))


def test_names_in_charts_are_escaped() -> None:
    evil = '<script>&"'
    shown = [
        interval_plot(evil, [Dot(evil, 1.0)]),
        histogram(evil, [1.0], [0, 1, 2]),
        line_chart(evil, [Curve(evil, [(1, 1.0)])]),
    ]
    for svg in shown:
        assert "<script" not in svg
        assert numbers_of(svg)
