"""SimPO: numbers by hand."""

import math

import pytest

from bezoar.train.objectives import SimPO
from tests.helpers.two_pairs import loss


def test_by_hand() -> None:
    # means -1.5, -1.5 and -0.5, -2: margins 0 and 2 * 1.5 = 3, less gamma
    assert loss(SimPO(beta=2.0, gamma=0.5)) == pytest.approx(
        [math.log(1 + math.exp(0.5)), math.log(1 + math.exp(-2.5))]
    )
    assert SimPO().needs == frozenset()
