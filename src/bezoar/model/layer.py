"""A decoder layer of the Llama family on frozen weights, faster and smaller than the original.

The parts between the matrix products are single autograd steps with their gradients written out:
they keep fewer tensors and make fewer passes over memory than the same formulas left to autograd.

B batch (1 where gradients are formed), T tokens, A positions that are read, E hidden size, F inner
size of the MLP, H query heads, G key/value heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bezoar.model.attention import Layout
from bezoar.model.fast_paths import usable
from bezoar.model.linear import project

KNOWN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}
_aten = torch.ops.aten
# numbers that a pass over rows handles at once, so that they stay in the processor's cache
_IN_CACHE = 2**18


class FastLayer(nn.Module):
    """Computes what `original` does, whose parts it shares; `fast` False runs `original` itself.

    `recompute` keeps only the layer's input for the backward pass. With `read` [A], the last layer
    runs everything after its attention at those positions only.
    """

    def __init__(self, original: Any, *, last: bool) -> None:
        super().__init__()
        # under their old names, which are those of the weights in files
        self.self_attn, self.mlp = original.self_attn, original.mlp
        self.input_layernorm = original.input_layernorm
        self.post_attention_layernorm = original.post_attention_layernorm
        self.hidden_original = [original]  # in a list, so that its weights are not counted twice
        self.fast, self.recompute, self.last = True, False, last

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if not self.fast:
            out: Tensor = self.hidden_original[0](hidden_states, **kwargs)
            return out
        # cos and sin [B * T, 1, D], with the sign that `rotate` wants
        cos, sin = kwargs["position_embeddings"]
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        angles = (cos.flatten(0, 1)[:, None], signed.flatten(0, 1)[:, None])
        read = kwargs.get("read") if self.last else None
        inputs = (hidden_states, angles, kwargs["layout"], read)
        if self.recompute and torch.is_grad_enabled():
            out = checkpoint(self._forward, *inputs, use_reentrant=False)
            return out
        return self._forward(*inputs)

    def _forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], layout: Layout, read: Tensor | None
    ) -> Tensor:
        attention, mlp = self.self_attn, self.mlp
        x = hidden.flatten(0, 1)  # [B * T, E]
        attended = self._attention(_norm(self.input_layernorm, x), angles, layout, hidden.shape[0])
        # attention needs every position, the rest only those that are read: [A, E] from here on
        if read is not None:
            x, attended = x.index_select(0, read), attended.index_select(0, read)
        x = x + project(attended, [attention.o_proj])[0]
        gate, up = project(_norm(self.post_attention_layernorm, x), [mlp.gate_proj, mlp.up_proj])
        out = x + project(swiglu(gate, up), [mlp.down_proj])[0]
        return out.view(hidden.shape[0], -1, hidden.shape[2])

    def _attention(
        self, x: Tensor, angles: tuple[Tensor, Tensor], layout: Layout, batch: int
    ) -> Tensor:
        """x [B * T, E] -> [B * T, H * D]."""
        attention = self.self_attn
        q, k, v = (
            y.view(x.shape[0], -1, attention.head_dim)  # [B * T, H or G, D]
            for y in project(x, [attention.q_proj, attention.k_proj, attention.v_proj])
        )
        q, k, v = (
            y.view(batch, -1, *y.shape[1:]).transpose(1, 2)  # [B, H or G, T, D]
            for y in (rotate(q, *angles), rotate(k, *angles), v)
        )
        out = layout.attend(attention.layer_idx, q, k, v, attention.scaling)
        return out.transpose(1, 2).reshape(x.shape[0], -1)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm(x, norm.weight, norm.variance_epsilon)


def install(net: Any) -> None:
    """Replace the layers that FastLayer can stand for; other models keep their own."""
    layers = getattr(net.base_model, "layers", None)
    if layers is None or net.config.hidden_act != "silu" or not usable("fused layers"):
        return
    for index, layer in enumerate(layers):
        if type(layer).__name__ in KNOWN:
            layers[index] = FastLayer(layer, last=index == len(layers) - 1)


def trims(net: Any) -> bool:
    """Whether the last layer can compute the states at some positions only."""
    layers = getattr(net.base_model, "layers", None)
    return layers is not None and isinstance(layers[-1], FastLayer) and layers[-1].fast


def recompute(net: Any) -> None:
    """Keep only the input of each layer for the backward pass (gradient checkpointing)."""
    layers = fast_layers(net)
    for layer in layers:
        layer.recompute = layer.fast
    if not layers or not layers[0].fast:
        net.gradient_checkpointing_enable({"use_reentrant": False})


def fast_layers(net: nn.Module) -> list[FastLayer]:
    """The layers that `install` put in."""
    return [module for module in net.modules() if isinstance(module, FastLayer)]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension; x [T, E], `weight` frozen."""
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
            torch.mul((wide * scale[rows]).to(x.dtype), weight, out=out[rows])
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        grad, size, zero = grad.contiguous(), x.shape[-1], torch.zeros_like(scale)
        # 1) the kernel of layer normalisation with mean 0 and our scale; its weight is float32 on a
        #    CPU and in the precision of x elsewhere
        factor = weight.float() if x.device.type == "cpu" else weight
        by_x: Tensor = _aten.native_layer_norm_backward(
            grad, x, [size], zero, scale, factor, None, [True, False, False]
        )[0]
        # 2) give back what that kernel subtracts because it believes that x was centred
        means = torch.mv(grad, weight)[:, None].float().mul_(scale / size)
        return by_x.add_(means.to(x.dtype)), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864), half-split: x [T, H, D], cos and sin [T, 1, D].

    `sin` has its first half negated, so that rotating is x * cos + roll(x, D/2) * sin.
    """
    out: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

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
