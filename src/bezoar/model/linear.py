"""Linear layers with a stack of low-rank adapters on frozen weights, in 4 bits or not.

T tokens, I inputs, O outputs, R the sum of the lower adapters' ranks, r the top adapter's rank.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.model.tensors import kept_tensors, save_tensors


class NF4Weight(nn.Module):
    """A weight in NF4 with doubly quantised scales (QLoRA, arXiv 2305.14314, section 3).

    `keep` holds the dequantised weight too: the same values to the bit, for more memory.
    """

    def __init__(self, data: Tensor, state: Any, *, keep: bool) -> None:
        super().__init__()
        self.data: Tensor
        self.register_buffer("data", data)
        self.state = state  # bitsandbytes' QuantState
        self.kept: Tensor | None = None
        self.kept = self() if keep else None

    @classmethod
    def of(cls, weight: Tensor, *, keep: bool) -> "NF4Weight":
        """Quantise a weight [O, I]."""
        from bitsandbytes.functional import quantize_4bit

        weight = weight.detach().contiguous()
        data, state = quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        return cls(data, state, keep=keep)

    def stored(self, name: str) -> dict[str, Tensor]:
        """The tensors that make it up, for a file."""
        parts = {"data": self.data, **self.state.as_dict(packed=True)}
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], name: str, *, keep: bool) -> "NF4Weight":
        """The inverse of `stored`."""
        from bitsandbytes.functional import QuantState

        prefix = f"{name}."
        parts = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        data = parts.pop("data")
        return cls(data, QuantState.from_dict(parts, device=data.device), keep=keep)

    def forward(self) -> Tensor:
        """The weight [O, I] in the precision that it had before."""
        if self.kept is not None:
            return self.kept
        from bitsandbytes.functional import dequantize_4bit

        weight: Tensor = dequantize_4bit(self.data, self.state)
        return weight


class LoRAWeights(nn.Module):
    """y += alpha / r * B A dropout(x) (LoRA, arXiv 2106.09685); A [r, I], B [O, r] in float32."""

    def __init__(self, down: Tensor, up: Tensor, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down.float()), nn.Parameter(up.float())
        self.scale, self.dropout = scale, dropout


class StackedLinear(nn.Module):
    """y = W x + b + the frozen `lower` adapters as one product + the `top` adapter."""

    # The top adapter is apart, so that it can train or be disabled: without it the result is to the
    # bit that of a stack that never had it.

    def __init__(self, inner: nn.Linear, *, packed: NF4Weight | None = None) -> None:
        super().__init__()
        self.weight: NF4Weight | nn.Parameter = packed or _frozen(inner.weight)
        self.bias = None if inner.bias is None else _frozen(inner.bias)
        self.in_features, self.out_features = inner.in_features, inner.out_features
        self.lower: list[LoRAWeights] = []
        self.lower_down: Tensor | None = None  # [R, I]
        self.lower_up: Tensor | None = None  # [O, R], times the scales
        self.top: LoRAWeights | None = None
        self.use_top = True

    def matrix(self) -> Tensor:
        """The frozen weight [O, I]."""
        weight: Tensor = self.weight() if isinstance(self.weight, NF4Weight) else self.weight
        return weight

    def freeze(self, adapter: LoRAWeights) -> None:
        """Put a frozen adapter on the lower ones."""
        self.lower.append(adapter)
        self.join_lower(self.matrix())

    def join_lower(self, like: Tensor) -> None:
        """Make one product of the frozen adapters, of the device and precision of `like`."""
        if self.lower:
            self.lower_down = torch.cat([a.down.detach() for a in self.lower]).to(like)
            self.lower_up = torch.cat([a.up.detach() * a.scale for a in self.lower], 1).to(like)

    def merged(self) -> Tensor:
        """W plus the adapters in use, [O, I]: summed in float32 and rounded once."""
        weight = self.matrix()
        adapters = [*self.lower, *([self.top] if self.top and self.use_top else [])]
        if not adapters:
            return weight
        merged = weight.float()
        for adapter in adapters:
            merged = merged + adapter.scale * (adapter.up.detach() @ adapter.down.detach())
        return merged.to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, [self])[0]

    def frozen(self, x: Tensor) -> Tensor:
        """x [T, I] -> [T, O] without the top adapter."""
        out = torch.nn.functional.linear(x, self.matrix(), self.bias)
        if self.lower_down is not None and self.lower_up is not None:
            out.addmm_(x @ self.lower_down.T, self.lower_up.T)
        return out

    def frozen_gradient(self, grad: Tensor, total: Tensor | None) -> Tensor:
        """Add the gradient of `frozen` for x, from that of its result [T, O], to `total`."""
        out = grad @ self.matrix() if total is None else total.addmm_(grad, self.matrix())
        if self.lower_down is not None and self.lower_up is not None:
            out.addmm_(grad @ self.lower_up, self.lower_down)
        return out


def _frozen(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)


def project(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """The results of several linear layers for one x [..., I].

    Their top adapters share one dropout mask and one product with x.
    """
    stacked = [layer for layer in layers if isinstance(layer, StackedLinear)]
    # with merged weights or without adapters every layer computes for itself
    if len(stacked) < len(layers) or any("forward" in layer.__dict__ for layer in stacked):
        return [layer(x) for layer in layers]
    batch = x.reshape(-1, x.shape[-1])  # [T, I]
    tops = [layer.top if layer.use_top else None for layer in stacked]
    weights = [w for top in tops if top for w in (top.down, top.up)]
    dropout = next((top.dropout for top in tops if top), 0.0) if stacked[0].training else 0.0
    mask, kept = drop_mask(batch, dropout) if dropout else (None, 1.0)
    outs = _Project.apply(batch, stacked, tops, mask, kept, *weights)  # type: ignore[no-untyped-call]
    return [out.view(*x.shape[:-1], -1) for out in outs]


class _Project(torch.autograd.Function):
    """y_i = frozen_i(x) + s_i (m x) A_iᵀ B_iᵀ; m is a mask divided by the chance to be kept.

    Gradients are formed for x, A_i and B_i. A and B are float32, products are in the precision of
    x. Frozen weights are not kept for the backward pass: in 4 bits they are dequantised once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: list[StackedLinear],
        tops: list[LoRAWeights | None],
        mask: Tensor | None,
        kept: float,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        # 1) the part that does not train
        outs = [layer.frozen(x) for layer in layers]  # [T, O_i]
        ctx.layers, ctx.tops, ctx.kept = layers, tops, kept
        lows: Sequence[Tensor] = ()
        if weights:
            # 2) one product with the A of all layers, for many narrow ones waste the machine
            x = masked(x, mask)
            low = x @ torch.cat(weights[::2]).to(x.dtype).T  # [T, sum of r]
            lows = torch.split(low, [down.shape[0] for down in weights[::2]], 1)
            # 3) B on top, in place
            each = iter(lows)
            for out, top in zip(outs, tops, strict=True):
                if top:
                    out.addmm_(next(each), (top.up * (top.scale / kept)).to(x.dtype).T)
        # the lows too: recomputation would not free what a node holds by itself
        ctx.save_for_backward(x if weights else None, mask, *lows, *weights)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, *saved = ctx.saved_tensors
        num_tops = len(saved) // 3
        lows, weights = saved[:num_tops], saved[num_tops:]
        grads = tuple(grad.contiguous() for grad in grads)
        # 1) through the frozen layers, summed in place: they share x
        by_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for layer, grad in zip(ctx.layers, grads, strict=True):
                by_x = layer.frozen_gradient(grad, by_x)
        # 2) each B, and the gradient that reaches its A
        by_low, by_up = [], []
        lows_and_ups = iter(zip(lows, weights[1::2], strict=True))
        for top, grad in zip(ctx.tops, grads, strict=True):
            if top:
                low, up = next(lows_and_ups)
                scale = top.scale / ctx.kept
                by_low.append(grad @ (up * scale).to(grad.dtype))
                by_up.append((low.T @ grad).T.to(up.dtype).mul_(scale))
        if not by_low:
            return by_x, None, None, None, None
        # 3) every A in one product, then through them to x
        ranks, by_lows = [down.shape[0] for down in weights[::2]], torch.cat(by_low, 1)
        by_down = torch.split((by_lows.T @ x).to(weights[0].dtype), ranks)
        if by_x is not None:
            downs = torch.cat(weights[::2]).to(x.dtype)
            if mask is None:
                by_x.addmm_(by_lows, downs)
            else:
                by_x.add_(masked(by_lows @ downs, mask))
        by_weights = (grad for pair in zip(by_down, by_up, strict=True) for grad in pair)
        return by_x, None, None, None, None, *by_weights


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x where `mask` is 1, else 0, as a product of bits: a fourth of the cost of a select."""
    if mask is None:
        return x
    bits = _BITS[x.element_size()]
    return (x.view(bits) * mask.to(bits)).view(x.dtype)


def drop_mask(x: Tensor, rate: float) -> tuple[Tensor, float]:
    """A mask [T, I] of 0 and 1 (int8), and the exact chance to be kept (a multiple of 2^-16)."""
    # four elements share one 64-bit draw: a tenth of the cost of a bernoulli mask
    count = x.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device)
    draws.random_(-(2**63), None)
    dropped = round(rate * 2**16)
    values = draws.view(torch.int16)[:count].view(-1, x.shape[-1])
    mask = torch.ge(values, dropped - 2**15, out=torch.empty_like(values))
    return mask.to(torch.int8), 1 - dropped / 2**16


class LaidOut:
    """x [..., I] -> [..., O] in bfloat16 on a CPU, on a weight reordered once and not in every
    product: half the time of a decoding step. What follows a product is computed with it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight), bias
        self.product: Any = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        """`then`: "swish" is SiLU."""
        out: Tensor = self.product(x, self.weight, self.bias, then, [], "")
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product multiplied by `other` [..., O]."""
        out: Tensor = self.product.binary(x, other, self.weight, self.bias, "mul")
        return out


def linear_layers(
    net: nn.Module, targets: tuple[str, ...] | str = "all-linear"
) -> Iterator[tuple[str, nn.Linear | StackedLinear]]:
    """(full name, layer) of the linear layers in the decoder's blocks named in `targets`."""
    for name, module in net.named_modules():
        in_block = re.search(r"\.(layers|h|blocks)\.\d+\.", name)
        wanted = targets == "all-linear" or name.rsplit(".", 1)[-1] in targets
        if in_block and wanted and isinstance(module, (nn.Linear, StackedLinear)):
            yield name, module


def quantize(net: nn.Module, *, device: str, file: Path | None = None) -> None:
    """Quantise the linear layers of the decoder's blocks; `file` keeps the packed weights."""
    # on a CPU packing and unpacking are slow: the dequantised weights are kept too
    names = [name for name, layer in linear_layers(net) if isinstance(layer, nn.Linear)]
    tensors, keep = None if file is None else kept_tensors(file), device == "cpu"
    stored: dict[str, Tensor] = {}
    # one at a time, so that no more than one weight is there twice
    for name in names:
        layer: Any = net.get_submodule(name)
        if tensors is not None:
            packed = NF4Weight.restored(tensors, name, keep=keep)
        else:
            packed = NF4Weight.of(layer.weight.to(device), keep=keep)
            stored |= packed.stored(name) if file is not None else {}
        net.set_submodule(name, StackedLinear(layer, packed=packed))
    if file is not None and tensors is None:
        save_tensors(file, stored)
