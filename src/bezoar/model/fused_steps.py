"""What a decoder layer computes between its matrix products, each as a single autograd step.

With their gradients written out they keep fewer tensors and make fewer passes over memory than the
same formulas left to autograd.

T tokens, E hidden size, F inner size of the MLP, H heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
# numbers that a pass over rows handles at once, so that they stay in the processor's cache
_IN_CACHE = 2**18


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension; x [T, E], `weight` frozen."""
    # while answers are drawn, rounded once; elsewhere a reference equals its policy to the bit
    if torch.is_inference_mode_enabled():
        wide = x.float()
        scale: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return (wide * scale).mul_(weight.float()).to(x.dtype)
    out: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        scale = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
        for rows in _row_blocks(x):
            wide = x[rows].float()
            norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True, out=scale[rows])
            norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            torch.mul((wide * scale[rows]).to(weight.dtype), weight, out=out[rows])
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        grad, size, zero = grad.contiguous(), x.shape[-1], torch.zeros_like(scale)
        # 1) the kernel of layer normalisation with mean 0 and our scale; its weight is float32 on a
        #    CPU and in the precision of x elsewhere
        factor = weight.float() if x.device.type == "cpu" else weight.to(x.dtype)
        by_x: Tensor = _aten.native_layer_norm_backward(
            grad, x, [size], zero, scale, factor, None, [True, False, False]
        )[0]
        # 2) give back what that kernel subtracts because it believes that x was centred
        means = torch.mv(grad, weight.to(grad.dtype))[:, None].float().mul_(scale / size)
        return by_x.add_(means.to(x.dtype)), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864), half-split: x [T, H, D], cos and sin [T, 1, D].

    `sin` has its first half negated, so that rotating is x * cos + roll(x, D/2) * sin.
    """
    if torch.is_inference_mode_enabled():
        return _rotated(x, cos, sin)
    out: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def rotate_part(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` of the first numbers of each head, as many as there are angles."""
    size = cos.shape[-1]
    if size == x.shape[-1]:
        return rotate(x, cos, sin)
    rotated = rotate(x[..., :size], cos, sin)
    return torch.cat((rotated, x[..., size:].to(rotated.dtype)), -1)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return (grad * cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [T, F] (arXiv 2002.05202); only gate and up are kept for its gradient."""
    out: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        for rows in _row_blocks(gate):
            _aten.silu.out(gate[rows], out=out[rows]).mul_(up[rows])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        for rows in _row_blocks(gate):
            _aten.silu.out(gate[rows], out=by_up[rows]).mul_(grad[rows])
            by_silu = grad[rows] * up[rows]
            _aten.silu_backward.grad_input(by_silu, gate[rows], grad_input=by_gate[rows])
        return by_gate, by_up


def _row_blocks(x: Tensor) -> list[slice]:
    size = max(1, _IN_CACHE // x.shape[-1]) if x.device.type == "cpu" else x.shape[0]
    return [slice(start, start + size) for start in range(0, x.shape[0], size)]
