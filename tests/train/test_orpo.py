"""ORPO: numbers by hand."""

import math

import pytest

from bezoar.train.objectives import ORPO
from tests.helpers.two_pairs import loss

PW, PL = math.exp(-0.5), math.exp(-2.0)
RATIO = (PW / (1 - PW)) / (PL / (1 - PL))


def test_by_hand() -> None:
    # the answers of the first pair are equally likely per token: an odds ratio of 1
    found = loss(ORPO(odds_weight=0.1))
    assert found == pytest.approx([1.5 + 0.1 * math.log(2), 0.5 + 0.1 * math.log(1 + 1 / RATIO)])


def test_another_temperature_and_no_likelihood() -> None:
    found = loss(ORPO(odds_weight=0.2, beta=0.5, sft_weight=0.0))
    assert found == pytest.approx([0.2 * math.log(2), 0.2 * math.log(1 + RATIO**-0.5)])
