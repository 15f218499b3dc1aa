"""IPO: numbers by hand under both normalisations."""

import pytest

from bezoar.train.objectives import IPO
from tests.helpers.two_pairs import loss, terms


def test_by_hand() -> None:
    # means: 0.75 + 0.5 = 1.25 and 1 + 0.5 = 1.5; sums: 2 and 2; the target is 1 / (2 * 0.25) = 2
    assert loss(IPO(beta=0.25)) == pytest.approx([0.5625, 0.25])
    assert loss(IPO(beta=0.25, normalise="none")) == pytest.approx([0.0, 0.0])
    assert loss(IPO(beta=0.5, normalise="none")) == pytest.approx([1.0, 1.0])
    assert terms(IPO(beta=0.5)).metrics["margin"].tolist() == pytest.approx([0.625, 0.75])
