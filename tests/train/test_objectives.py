"""What holds for every objective on answers: gradients by finite differences, and one value a
unit."""

from typing import Any

import pytest
import torch

from bezoar.train.objective import LossInputs
from bezoar.train.objectives import ASFT, DPO, IPO, KTO, ORPO, SFT, Hinge, SimPO
from bezoar.train.objectives.pairs import add_sft
from tests.helpers.two_pairs import OWNER, POLICY, terms

MADE = [
    SFT(),
    DPO(),
    DPO(label_smoothing=0.1),
    DPO(label_smoothing=0.1, smoothing="robust"),
    DPO(sft_weight=0.5),
    IPO(),
    IPO(normalise="none"),
    Hinge(),
    Hinge(reference=False, sft_weight=0.5),
    SimPO(),
    ORPO(),
    ORPO(beta=0.3),
    ASFT(),
    ASFT(beta=0.3, sft_weight=0.0),
    KTO(),
]


@pytest.mark.parametrize("objective", MADE, ids=str)
def test_gradients_are_those_of_finite_differences(objective: Any) -> None:
    torch.manual_seed(1)
    policy = (
        (POLICY.double() + 0.2 * torch.randn(6, dtype=torch.float64))
        .clamp(max=-0.05)
        .requires_grad_()
    )
    assert torch.autograd.gradcheck(lambda x: terms(objective, x, 0.3).loss, policy)


@pytest.mark.parametrize("objective", MADE, ids=str)
def test_one_value_a_unit_and_no_gradient_in_what_is_watched(objective: Any) -> None:
    found = terms(objective, POLICY.clone().requires_grad_())
    assert found.loss.shape == ({"token": 6, "answer": 4, "pair": 2}[objective.unit],)
    assert found.loss.requires_grad
    for values in found.metrics.values():
        assert values.shape == found.loss.shape
        assert not values.requires_grad


def test_a_likelihood_without_weight_is_left_out_even_where_it_is_infinite() -> None:
    loss = torch.tensor([0.5, 2.0])
    assert add_sft(loss, 0.0, LossInputs(OWNER, 4), torch.full((6,), -torch.inf)).tolist() == [
        0.5,
        2.0,
    ]
