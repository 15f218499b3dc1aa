"""Hinge: numbers by hand with a reference (RSO) and without (SLiC-HF)."""

import pytest

from bezoar.train.objectives import Hinge
from tests.helpers.two_pairs import loss


def test_by_hand_with_a_reference() -> None:
    # d = 2 for both pairs
    assert loss(Hinge(beta=0.25)) == pytest.approx([0.5, 0.5])
    assert loss(Hinge(beta=1.0)) == [0.0, 0.0]


def test_by_hand_without() -> None:
    # d = -3 + 1.5 = -1.5 and -0.5 + 4 = 3.5; the likelihood terms are 1.5 and 0.5
    objective = Hinge(beta=0.25, reference=False)
    assert objective.needs == frozenset()
    assert loss(objective) == pytest.approx([1.375, 0.125])
    assert loss(Hinge(beta=0.25, reference=False, sft_weight=0.1)) == pytest.approx([1.525, 0.175])
