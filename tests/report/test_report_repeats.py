"""What several seeds say together: mean, spread, and claims that one seed alone carries."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bezoar.evals.repeats import Spread
from bezoar.evals.stats import Difference
from bezoar.report.repeats import Claim, warnings
from tests.helpers.fake_run import load
from tests.helpers.small_run import SmallRun, hits


def test_mean_and_spread() -> None:
    spread = Spread({7: 0.6, 8: 0.7, 9: 0.5})
    assert spread.mean == pytest.approx(0.6)
    assert spread.sd == pytest.approx(math.sqrt((0.0 + 0.01 + 0.01) / 2))
    assert (spread.lowest, spread.highest) == (0.5, 0.7)
    assert Spread({7: 0.6}).sd is None


def claim(*differences: tuple[float, bool], higher: bool = True) -> Claim:
    found = {
        7 + i: Difference("", 0.0, value, value, None, None, 0.01 if shown else 0.5, 40)
        for i, (value, shown) in enumerate(differences)
    }
    return Claim("acc", "dpo", "base", found, higher)


def test_a_claim_that_all_seeds_carry_has_no_warning() -> None:
    found = claim((0.2, True), (0.3, True), (0.15, True))
    assert str(found) == "better than base in 3 of 3, shown in 3"
    assert found.warning == ""
    assert str(claim((0.2, True), (0.1, True), higher=False)).startswith("worse than base in 2 of")
    assert claim((0.02, False), (-0.01, False)).warning == ""  # nobody claims anything


@pytest.mark.parametrize(
    ("differences", "warning"),
    [
        (
            [(0.2, True), (0.02, False), (0.01, False)],
            "is carried by seed 7 alone; the others show +0.020 (seed 8) and +0.010 (seed 9).",
        ),
        (
            [(0.02, False), (0.2, True), (-0.01, False)],
            "is carried by seed 8 alone; the others show +0.020 (seed 7) and −0.010 (seed 9), so"
            " not even the direction is sure.",
        ),
        (
            [(0.2, True), (0.2, True), (0.01, False)],
            "is carried by seeds 7 and 8; the others show +0.010 (seed 9).",
        ),
        (
            [(0.2, True), (-0.2, True)],
            "is shown by every seed, in both directions: +0.200 (seed 7) and −0.200 (seed 8).",
        ),
    ],
)
def test_a_claim_that_some_seeds_do_not_carry(
    differences: list[tuple[float, bool]], warning: str
) -> None:
    assert claim(*differences).warning == f"acc: that dpo differs from base {warning}"


def test_accuracy_and_margin_of_one_score_are_one_claim(tmp_path: Path) -> None:
    name, boards = "preferences/implicit reward over start ", []
    for i, num in enumerate((40, 23)):
        run = SmallRun(tmp_path / str(i))
        run.train("dpo", "base", "dpo")
        right = hits(num, 45)
        margins = [value - 0.5 for value in right]
        run.evaluate("dpo", {name + "accuracy": right, name + "margin": margins})
        boards.append(load(run.path)[1])
    seeds = {7 + i: board for i, board in enumerate(boards)}
    (warning,) = warnings(replace(boards[0], seeds=seeds, repeated=frozenset({"dpo"})))
    assert warning.startswith(f"{name}accuracy: that dpo differs from chance is carried by seed 7")
