"""Linear layers with a stack of low-rank adapters on frozen weights, in 4 bits or not, and their
gradients.

T tokens, I inputs, O outputs, R the ranks of all lower adapters together, r the rank of the top
one.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.model.tensors import kept_tensors, save_tensors


class NF4Weight(nn.Module):
    """A weight in NF4 with doubly quantised scales (QLoRA, arXiv 2305.14314, section 3), stored by
    bitsandbytes.

    `keep` holds the dequantised weight too: the same values to the bit, traded against memory.
    """

    def __init__(self, data: Tensor, state: Any, *, keep: bool) -> None:
        super().__init__()
        self.register_buffer("data", data)
        self.state = state  # bitsandbytes' QuantState
        self.kept = self._unpacked() if keep else None

    @classmethod
    def of(cls, weight: Tensor, *, keep: bool) -> "NF4Weight":
        """A weight [O, I] brought into 4 bits."""
        from bitsandbytes.functional import quantize_4bit

        data, state = quantize_4bit(
            weight.detach().contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        return cls(data, state, keep=keep)

    def stored(self, name: str) -> dict[str, Tensor]:
        """The tensors that make it up, for a file."""
        return {
            f"{name}.data": self.data,
            **{f"{name}.{k}": v for k, v in self.state.as_dict(packed=True).items()},
        }

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], name: str, *, keep: bool) -> "NF4Weight":
        """The inverse of `stored`."""
        from bitsandbytes.functional import QuantState

        parts = {
            k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")
        }
        data = parts.pop("data")
        return cls(data, QuantState.from_dict(parts, device=data.device), keep=keep)

    def _unpacked(self) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        weight: Tensor = dequantize_4bit(self.data, self.state)  # type: ignore[arg-type]
        return weight

    def forward(self) -> Tensor:
        """The weight [O, I] in the precision that it had before."""
        return self._unpacked() if self.kept is None else self.kept


class LoRAWeights(nn.Module):
    """One low-rank adapter (LoRA, arXiv 2106.09685): y += alpha / r * B A dropout(x). A [r, I], B
    [O, r], float32."""

    def __init__(self, down: Tensor, up: Tensor, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down.float()), nn.Parameter(up.float())
        self.scale, self.dropout = scale, dropout


class StackedLinear(nn.Module):
    """y = W x + b + sum of frozen adapters + the top adapter, in the precision of x.

    `lower` are frozen and applied as one; `top` is the last one, kept apart so that it can train or
    be left out: without it the result is to the bit that of a stack that never had it.
    """

    def __init__(self, inner: nn.Linear, *, packed: NF4Weight | None = None) -> None:
        super().__init__()
        self.weight: Any = packed or nn.Parameter(inner.weight.detach(), requires_grad=False)
        self.bias = (
            None if inner.bias is None else nn.Parameter(inner.bias.detach(), requires_grad=False)
        )
        self.in_features, self.out_features = inner.in_features, inner.out_features
        self.lower: list[LoRAWeights] = []
        self.lower_down: Tensor | None = None
        self.lower_up: Tensor | None = None
        self.top: LoRAWeights | None = None
        self.use_top = True

    def matrix(self) -> Tensor:
        """The frozen weight [O, I]."""
        weight: Tensor = self.weight() if isinstance(self.weight, NF4Weight) else self.weight
        return weight

    def freeze(self, adapter: LoRAWeights) -> None:
        """Put a frozen adapter on the lower ones."""
        self.lower.append(adapter)
        weight = self.matrix()
        self.lower_down = torch.cat([a.down.detach() for a in self.lower]).to(weight)
        self.lower_up = torch.cat([a.up.detach() * a.scale for a in self.lower], 1).to(weight)

    def merged(self) -> Tensor:
        """W with every adapter added, [O, I] in float32."""
        weight = self.matrix().float()
        for adapter in [*self.lower, *([self.top] if self.top else [])]:
            weight = weight + adapter.scale * (adapter.up.detach() @ adapter.down.detach())
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return project(x, [self])[0]

    def frozen(self, x: Tensor) -> Tensor:
        """x [T, I] -> [T, O] without the top adapter."""
        out = torch.nn.functional.linear(x, self.matrix(), self.bias)
        if self.lower_down is not None and self.lower_up is not None:
            out.addmm_(x @ self.lower_down.T, self.lower_up.T)
        return out

    def frozen_gradient(self, grad: Tensor, before: Tensor | None) -> Tensor:
        """The gradient of `frozen` for x from that for its result [T, O], added to `before` (in
        place) where it is given."""
        out = grad @ self.matrix() if before is None else before.addmm_(grad, self.matrix())
        if self.lower_down is not None and self.lower_up is not None:
            out.addmm_(grad @ self.lower_up, self.lower_down)
        return out


def project(x: Tensor, layers: list[Any]) -> list[Tensor]:
    """The results of several linear layers for one x [..., I]. Their top adapters share one dropout
    mask and one product with x."""
    ours = all(
        isinstance(layer, StackedLinear) and "forward" not in layer.__dict__ for layer in layers
    )
    if not ours:
        return [layer(x) for layer in layers]
    batch = x.reshape(-1, x.shape[-1])
    tops = [layer.top if layer.use_top else None for layer in layers]
    weights = [w for top in tops if top for w in (top.down, top.up)]
    dropout = next((top.dropout for top in tops if top), 0.0) if layers[0].training else 0.0
    mask, kept = drop_mask(batch, dropout) if dropout else (None, 1.0)
    outs = _Project.apply(batch, layers, tops, mask, kept, *weights)  # type: ignore[no-untyped-call]
    return [out.view(*x.shape[:-1], -1) for out in outs]


class _Project(torch.autograd.Function):
    """y_i = frozen_i(x) + s_i (m x) A_iᵀ B_iᵀ, with gradients for x, A_i and B_i; m is a mask
    divided by the chance to be kept.

    A and B are float32, the products are in the precision of x. Frozen weights are not kept for the
    backward pass: in 4 bits they are unpacked once more.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        layers: list[StackedLinear],
        tops: list[LoRAWeights | None],
        mask: Tensor | None,
        kept: float,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        outs = [layer.frozen(x) for layer in layers]
        ctx.layers, ctx.tops, ctx.kept, ctx.lows = layers, tops, kept, []
        if weights:
            x = masked(x, mask)
            low = x @ torch.cat(weights[::2]).to(x.dtype).T
            ctx.lows = torch.split(low, [down.shape[0] for down in weights[::2]], 1)
            parts = iter(ctx.lows)
            for i, top in enumerate(tops):
                if top:
                    outs[i].addmm_(next(parts), (top.up * (top.scale / kept)).to(x.dtype).T)
        ctx.save_for_backward(x if weights else None, mask, *weights)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mask, *weights = ctx.saved_tensors
        grads = tuple(grad.contiguous() for grad in grads)
        by_x, inner, by_up = None, [], []
        if ctx.needs_input_grad[0]:
            for layer, grad in zip(ctx.layers, grads, strict=True):
                by_x = layer.frozen_gradient(grad, by_x)
        parts = iter(zip(ctx.lows, weights[1::2], strict=True))
        for top, grad in zip(ctx.tops, grads, strict=True):
            if top:
                low, up = next(parts)
                scale = top.scale / ctx.kept
                inner.append(grad @ (up * scale).to(grad.dtype))
                by_up.append((low.T @ grad).T.to(up.dtype).mul_(scale))
        if not inner:
            return by_x, None, None, None, None
        all_inner = torch.cat(inner, 1)
        by_down = torch.split(
            (all_inner.T @ x).to(weights[0].dtype), [down.shape[0] for down in weights[::2]]
        )
        if by_x is not None:
            downs = torch.cat(weights[::2]).to(x.dtype)
            by_x = (
                by_x.addmm_(all_inner, downs)
                if mask is None
                else by_x.add_(masked(all_inner @ downs, mask))
            )
        return (
            by_x,
            None,
            None,
            None,
            None,
            *(g for pair in zip(by_down, by_up, strict=True) for g in pair),
        )


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x where `mask` is 1 and 0 where it is 0, as a product of bits: a fourth of the cost of a
    select."""
    if mask is None:
        return x
    bits = _BITS[x.element_size()]
    return (x.view(bits) * mask.to(bits)).view(x.dtype)


def drop_mask(x: Tensor, rate: float) -> tuple[Tensor, float]:
    """A mask [T, I] of 0 and 1 (int8) that keeps an element with a chance near 1 - rate, and that
    chance exactly (a multiple of 2^-16).

    Four elements share one 64-bit draw of the default generator: drawing is a tenth of the cost of
    a bernoulli mask.
    """
    count = x.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)  # type: ignore[arg-type]
    dropped = round(rate * 2**16)
    values = draws.view(torch.int16)[:count].view(-1, x.shape[-1])
    mask = torch.ge(values, dropped - 2**15, out=torch.empty_like(values))
    return mask.to(torch.int8), 1 - dropped / 2**16


def linear_names(net: nn.Module, targets: tuple[str, ...] | str) -> Iterator[tuple[str, nn.Module]]:
    """(full name, layer) of the linear layers below the decoder's blocks whose last name is in
    `targets`, or of all of them."""
    for name, module in net.named_modules():
        inside = re.search(r"\.(layers|h|blocks)\.\d+\.", name)
        if (
            inside
            and isinstance(module, (nn.Linear, StackedLinear))
            and (targets == "all-linear" or name.rsplit(".", 1)[1] in targets)
        ):
            yield name, module


def quantize(net: nn.Module, *, device: str, file: Path | None = None) -> None:
    """Put every linear layer of the decoder's blocks into NF4, in place. On a CPU the dequantised
    weight is kept beside it.

    Packing is slow on a CPU: with `file` the packed weights are kept there, and read from it where
    it exists and is whole.
    """
    layers = [
        (name, module)
        for name, module in linear_names(net, "all-linear")
        if isinstance(module, nn.Linear)
    ]
    tensors = None if file is None else kept_tensors(file)
    if tensors is not None:
        packed = {
            name: NF4Weight.restored(tensors, name, keep=device == "cpu") for name, _ in layers
        }
    else:
        packed = {
            name: NF4Weight.of(module.weight.to(device), keep=device == "cpu")
            for name, module in layers
        }
        if file is not None:
            save_tensors(
                file,
                {k: v for name, weight in packed.items() for k, v in weight.stored(name).items()},
            )
    for name, module in layers:
        replace(net, name, StackedLinear(module, packed=packed[name]))


def replace(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place `name` of the network."""
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, module)
