"""ASFT: numbers by hand, its identity with ORPO, its gradients, and answers that are nearly
certain."""

import math

import pytest
import torch

from bezoar.train.objective import LossInputs
from bezoar.train.objectives import ASFT, ORPO
from tests.helpers.two_pairs import OWNER, loss, terms

PW, PL = math.exp(-0.5), math.exp(-2.0)


def test_by_hand() -> None:
    # -(1 + lambda) log p(w) - lambda log(1 - p(l)), with log p = -1.5, -1.5 in the first pair
    assert loss(ASFT(odds_weight=0.5)) == pytest.approx(
        [1.5 * 1.5 - 0.5 * math.log(1 - math.exp(-1.5)), 1.5 * 0.5 - 0.5 * math.log(1 - PL)]
    )
    assert terms(ASFT()).metrics["p_chosen"].tolist() == pytest.approx([math.exp(-1.5), PW])
    assert terms(ASFT()).metrics["p_rejected"].tolist() == pytest.approx([math.exp(-1.5), PL])


def test_another_temperature_by_hand() -> None:
    odds_w, odds_l = PW / (1 - PW), PL / (1 - PL)
    expected = math.log(1 + odds_w**-0.3) + math.log(1 + odds_l**0.3)
    assert loss(ASFT(beta=0.3, sft_weight=0.0))[1] == pytest.approx(expected)


def test_orpo_is_asft_and_one_more_term() -> None:
    torch.manual_seed(0)
    policy = -3 * torch.rand(6, dtype=torch.float64)
    means = LossInputs(OWNER, 4).means(policy).exp()
    w, other = means[0::2], means[1::2]
    whole = (
        ASFT(odds_weight=0.4).loss(LossInputs(OWNER, 4), policy).loss
        + 0.4 * (w * (1 - other) + other * (1 - w)).log()
    )
    orpo = ORPO(odds_weight=0.4).loss(LossInputs(OWNER, 4), policy).loss
    assert torch.allclose(orpo, whole, atol=1e-12)
    assert bool((whole <= ASFT(odds_weight=0.4).loss(LossInputs(OWNER, 4), policy).loss).all())


def test_gradients_are_the_derived_ones() -> None:
    """With s = log p: dL/ds(w) = -(1 + lambda), dL/ds(l) = lambda p / (1 - p); a token has a share
    1 / |y| of it."""
    policy = torch.tensor([-1.0, -2.0, -1.5, -0.5, -2.0, -2.0], requires_grad=True)
    ASFT(odds_weight=0.5).loss(LossInputs(OWNER, 4), policy).loss.sum().backward()
    p1 = math.exp(-1.5)
    push1, push2 = 0.5 * p1 / (1 - p1), 0.5 * PL / (1 - PL)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx(
        [-0.75, -0.75, push1, -1.5, push2 / 2, push2 / 2], rel=1e-5
    )


@pytest.mark.parametrize("sure", [0.0, -1e-9, -1e-7, -1e-5])
def test_a_certain_answer_has_finite_loss_and_gradient(sure: float) -> None:
    policy = torch.tensor([sure, sure, sure, -0.5, sure, sure], requires_grad=True)
    for objective in (ASFT(), ORPO(), ASFT(beta=0.1)):
        found = objective.loss(LossInputs(OWNER, 4), policy).loss
        (slope,) = torch.autograd.grad(found.sum(), policy)
        assert bool(found.isfinite().all())
        assert bool(slope.isfinite().all())
        assert float(slope.abs().max()) < 1.1e7
