"""The fused parts of a layer, and whole layers, against autograd and transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bezoar.model.fused_steps import rms_norm, rotate, swiglu
from bezoar.model.layer import fast_layers, recompute
from bezoar.model.linear import LoRAWeights, StackedLinear, masked, project
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup, answer
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack


def agree(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    torch.manual_seed(1)
    for tensor in inputs:
        tensor.requires_grad_()
    one, two = fast(*inputs), slow(*inputs)
    assert torch.allclose(one, two, atol=1e-5)
    grad = torch.randn_like(one)
    for a, b in zip(
        torch.autograd.grad(one, inputs, grad), torch.autograd.grad(two, inputs, grad), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_norm() -> None:
    torch.manual_seed(0)
    weight = torch.randn(24)
    agree(
        lambda x: rms_norm(x, weight, 1e-5),
        lambda x: weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt(),
        torch.randn(7, 24) * 3,
    )


def test_rotation() -> None:
    torch.manual_seed(0)
    angle = torch.randn(7, 1, 4)
    cos, sin = torch.cat((angle.cos(), angle.cos()), -1), torch.cat((-angle.sin(), angle.sin()), -1)

    def slow(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)

    agree(lambda x: rotate(x, cos, sin), slow, torch.randn(7, 3, 8))


def test_swiglu_in_parts() -> None:
    torch.manual_seed(0)
    size = 2**17 + 3  # three rows are two parts
    agree(swiglu, lambda g, u: g * torch.sigmoid(g) * u, torch.randn(3, size), torch.randn(3, size))


def make_layer(outs: int, *, top: bool, lower: int) -> StackedLinear:
    layer = StackedLinear(torch.nn.Linear(12, outs))
    for number in range(lower + top):
        adapter = LoRAWeights(
            torch.randn(3 + number, 12),
            torch.randn(outs, 3 + number),
            scale=0.5 + number,
            dropout=0.0,
        )
        if number < lower:
            layer.freeze(adapter)
        else:
            layer.top = adapter
    return layer


@pytest.mark.parametrize("lower", [0, 2])
def test_products_of_one_input(lower: int) -> None:
    torch.manual_seed(0)
    layers = [
        make_layer(5, top=True, lower=lower),
        make_layer(8, top=False, lower=lower),
        make_layer(4, top=True, lower=lower),
    ]
    tops = [w for layer in layers if layer.top for w in (layer.top.down, layer.top.up)]

    def slow(x: Tensor, *_: Tensor) -> Tensor:
        outs = []
        for layer in layers:
            y = x @ layer.matrix().T + layer.bias
            for adapter in [*layer.lower, *([layer.top] if layer.top else [])]:
                y = y + adapter.scale * (x @ adapter.down.T @ adapter.up.T)
            outs.append(y)
        return torch.cat(outs, 1)

    agree(lambda x, *_: torch.cat(project(x, layers), 1), slow, torch.randn(6, 12), *tops)


def test_dropout_keeps_the_mean_and_draws_the_same_from_a_seed() -> None:
    torch.manual_seed(0)
    layer = make_layer(5, top=True, lower=0)
    assert layer.top is not None
    layer.top.dropout = 0.25
    x = torch.randn(1, 12).repeat(20_000, 1).requires_grad_()
    plain = layer.eval()(x)[0]
    y = layer.train()(x)
    assert float(y.detach().std(0).min()) > 0.1
    assert torch.allclose(y.mean(0), plain, atol=0.1)
    inputs = [x, layer.top.down, layer.top.up]
    torch.manual_seed(3)
    one = torch.autograd.grad(layer(x).sum(), inputs)
    torch.manual_seed(3)
    two = torch.autograd.grad(layer(x).sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masked_is_a_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(5, 8, dtype=dtype), torch.randint(2, (5, 8), dtype=torch.int8)
    assert torch.equal(masked(x, mask), x * mask)


@pytest.mark.parametrize("recomputed", [False, True])
def test_layers_compute_what_transformers_does(tiny_model: Path, recomputed: bool) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, dropout=0.0), seed=0)
    torch.manual_seed(0)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    assert len(fast_layers(stack.net)) == 2
    groups = [
        PromptGroup(
            [5, 6, 7], [Completion([8, 9, 10], [True] * 3), Completion([11, 12], [True] * 2)]
        ),
        answer([13, 14], [15, 16]),
    ]
    batch = pack(groups)

    def run() -> list[Tensor]:
        hidden = stack.hidden(batch)
        weights = torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)
        return [
            hidden.detach(),
            *torch.autograd.grad((weights * hidden).sum(), list(named.values())),
        ]

    recompute(stack.net, on=recomputed)
    fast = run()
    for layer in fast_layers(stack.net):
        layer.fast = False
    for one, two in zip(fast, run(), strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-4 * float(two.abs().max()))
