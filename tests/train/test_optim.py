"""Groups of parameters and their learning rates."""

import pytest
import torch
from torch import nn

from bezoar.train.optim import lr_multiplier, make_optimizer, scale_rates


def named() -> list[tuple[str, nn.Parameter]]:
    shapes = {
        "layer.weight": (2, 2),
        "norm.weight": (2,),
        "score_head.weight": (1, 2),
        "score_head.bias": (1,),
    }
    return [(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]


def test_heads_have_their_rate_and_vectors_no_decay() -> None:
    parameters = named()
    chosen = make_optimizer("adamw", dict(parameters), lr=0.5, weight_decay=0.25, head_lr=2.0)
    groups = {
        name: next(g for g in chosen.param_groups if any(p is q for q in g["params"]))
        for name, p in parameters
    }
    found = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert found == {
        "layer.weight": (0.5, 0.25),
        "norm.weight": (0.5, 0.0),
        "score_head.weight": (2.0, 0.25),
        "score_head.bias": (2.0, 0.0),
    }
    for _ in range(2):  # from the first rates each time
        scale_rates(chosen, 0.5)
    assert [group["lr"] for group in chosen.param_groups] == [0.25, 0.25, 1.0, 1.0]
    one = make_optimizer("rmsprop", dict(parameters), lr=0.5, weight_decay=0.0)
    assert {group["lr"] for group in one.param_groups} == {0.5}


def test_moments_in_8_bits_move_the_weights_as_those_in_32_do() -> None:
    moved = {}
    for kind in ("adamw", "adamw_8bit_paged"):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, 80))
        optimizer = make_optimizer(kind, {"layer.weight": weight}, lr=0.01, weight_decay=0.1)
        for _ in range(5):
            weight.grad = torch.randn_like(weight)
            optimizer.step()
        moved[kind] = weight.detach()
        [state] = optimizer.state.values()
    assert {state["state1"].dtype, state["state2"].dtype} == {torch.uint8}
    error = (moved["adamw"] - moved["adamw_8bit_paged"]).abs()
    assert 0 < error.mean() < 0.002


def test_schedules_by_hand() -> None:
    assert [lr_multiplier("linear", step, num_steps=6, warmup=2) for step in range(6)] == [
        0.5,
        1.0,
        1.0,
        0.75,
        0.5,
        0.25,
    ]
    assert [lr_multiplier("constant", step, num_steps=3, warmup=0) for step in range(3)] == [
        1.0,
        1.0,
        1.0,
    ]
    assert lr_multiplier("cosine", 3, num_steps=6, warmup=0) == pytest.approx(0.5)
