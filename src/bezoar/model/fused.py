"""The parts of a decoder layer between its matrix products, each as one step of autograd with its
gradient written out.

They keep fewer tensors and make fewer passes over memory than the same formulas left to autograd.

T tokens, E hidden size, F inner size of the MLP, H heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_IN_CACHE = 2**18
"""Numbers a pass over rows handles at once, so that they stay in the processor's cache."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension; x [T, E], `weight` frozen."""
    return _Norm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        out, scale = (
            torch.empty_like(x),
            torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device),
        )
        for part in _parts(x):
            wide = x[part].float()
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True, out=scale[part]).square_().div_(
                x.shape[-1]
            ).add_(eps).rsqrt_()
            torch.mul((wide * scale[part]).to(x.dtype), weight, out=out[part])
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The kernel of layer normalisation with mean 0 and the scale above, plus the term that it
        takes off for the mean."""
        x, weight, scale = ctx.saved_tensors
        grad, size, zero = grad.contiguous(), x.shape[-1], torch.zeros_like(scale)
        # the precision that each kernel takes
        factor = weight.float() if x.device.type == "cpu" else weight
        by_x: Tensor = _aten.native_layer_norm_backward(
            grad, x, [size], zero, scale, factor, None, [True, False, False]
        )[0]
        means = torch.mv(grad, weight)[:, None].float().mul_(scale / size)
        return by_x.add_(means.to(x.dtype)), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) in the half-split form: x [T, H, D], cos and sin [T, 1,
    D] -> [T, H, D].

    `sin` has its first half negated, so that rotating is x * cos + roll(x, D/2) * sin.
    """
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-any-return, no-untyped-call]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return (grad * cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [T, F] (arXiv 2002.05202); the gradient is formed from gate and up, nothing
    else is kept."""
    return _SwiGLU.apply(gate, up)  # type: ignore[no-any-return, no-untyped-call]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        for part in _parts(gate):
            _aten.silu.out(gate[part], out=out[part]).mul_(up[part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        for part in _parts(gate):
            _aten.silu.out(gate[part], out=by_up[part]).mul_(grad[part])
            _aten.silu_backward.grad_input(
                grad[part] * up[part], gate[part], grad_input=by_gate[part]
            )
        return by_gate, by_up


def _parts(x: Tensor) -> list[slice]:
    size = max(1, _IN_CACHE // x.shape[-1]) if x.device.type == "cpu" else x.shape[0]
    return [slice(start, start + size) for start in range(0, x.shape[0], size)]
