"""A decoder layer of the Llama family on frozen weights, faster and smaller than the one it takes
the place of.

The parts of the original layer stay under their names; products of one input share their adapters'
work.

B batch (1 where gradients are formed), T tokens, A positions that are read, E hidden size, H query
heads, G key/value heads, D head size.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bezoar.model.fast_paths import usable
from bezoar.model.fused import rms_norm, rotate, swiglu
from bezoar.model.linear import project

KNOWN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}


class FastLayer(nn.Module):
    """The same function as `plain`, whose parts it shares. `fast` False runs `plain` itself;
    `recompute` keeps no activations.

    The last layer gives the states at the positions `read` [A] alone, where they are named: what
    comes behind its attention is computed for no other.
    """

    def __init__(self, plain: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp = plain.self_attn, plain.mlp
        self.input_layernorm, self.post_attention_layernorm = (
            plain.input_layernorm,
            plain.post_attention_layernorm,
        )
        self.hidden_plain = [plain]  # in a list, so that its weights are not counted twice
        self.fast, self.recompute, self.last = True, False, last

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        if not self.fast:
            return self.hidden_plain[0](hidden_states, **given)  # type: ignore[no-any-return]
        cos, sin = given["position_embeddings"]
        half = sin.shape[-1] // 2
        angles = (
            cos.flatten(0, 1)[:, None],
            torch.cat((-sin[..., :half], sin[..., half:]), -1).flatten(0, 1)[:, None],
        )
        read = given.get("read") if self.last else None
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(
                self._forward, hidden_states, angles, given["layout"], read, use_reentrant=False
            )
            return out
        return self._forward(hidden_states, angles, given["layout"], read)

    def _forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], layout: Any, read: Tensor | None
    ) -> Tensor:
        attention, mlp = cast(Any, self.self_attn), cast(Any, self.mlp)
        x = hidden.flatten(0, 1)
        attended = self._attention(_norm(self.input_layernorm, x), angles, layout, hidden.shape[0])
        if read is not None:
            x, attended = x.index_select(0, read), attended.index_select(0, read)
        x = x + project(attended, [attention.o_proj])[0]
        gate, up = project(_norm(self.post_attention_layernorm, x), [mlp.gate_proj, mlp.up_proj])
        return (x + project(swiglu(gate, up), [mlp.down_proj])[0]).view(
            hidden.shape[0], -1, hidden.shape[2]
        )

    def _attention(
        self, x: Tensor, angles: tuple[Tensor, Tensor], layout: Any, batch: int
    ) -> Tensor:
        attention: Any = self.self_attn
        size = attention.head_dim
        q, k, v = (
            y.view(x.shape[0], -1, size)
            for y in project(x, [attention.q_proj, attention.k_proj, attention.v_proj])
        )
        heads = (
            y.view(batch, -1, *y.shape[1:]).transpose(1, 2)
            for y in (rotate(q, *angles), rotate(k, *angles), v)
        )
        out: Tensor = layout.attend(attention.layer_idx, *heads, attention.scaling)
        return out.transpose(1, 2).reshape(x.shape[0], -1)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm(x, norm.weight, norm.variance_epsilon)


def install(net: Any) -> None:
    """Put fast layers in the place of those that are known; other models keep their own."""
    layers = getattr(net.base_model, "layers", None)
    if layers is None or net.config.hidden_act != "silu" or not usable("fused layers"):
        return
    for index, layer in enumerate(layers):
        if type(layer).__name__ in KNOWN:
            layers[index] = FastLayer(layer, last=index == len(layers) - 1)


def trims(net: Any) -> bool:
    """Whether the last layer gives the states alone that are read."""
    layers = getattr(net.base_model, "layers", None)
    return layers is not None and isinstance(layers[-1], FastLayer) and bool(layers[-1].fast)


def recompute(net: Any) -> None:
    """Keep no activations of any layer for the backward pass but its input."""
    layers = fast_layers(net)
    for layer in layers:
        layer.recompute = layer.fast
    if not layers or not layers[0].fast:
        net.gradient_checkpointing_enable({"use_reentrant": False})


def fast_layers(net: nn.Module) -> list[FastLayer]:
    """The layers that were put in."""
    return [module for module in net.modules() if isinstance(module, FastLayer)]
