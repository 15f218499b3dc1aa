"""A decoder layer on frozen weights, faster and smaller than that of transformers.

B batch (1 where gradients are formed), T tokens, A positions that are read, E hidden size, H query
heads, G key/value heads, n = H / G, D head size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from bezoar.model.architectures import ARCHITECTURES
from bezoar.model.attention import Layout
from bezoar.model.fast_paths import usable
from bezoar.model.fused_steps import rms_norm, rotate_part, swiglu
from bezoar.model.limited_attention import Rule
from bezoar.model.linear import LaidOut, project

Angles = tuple[Tensor, Tensor]


class FastLayer(nn.Module):
    """Computes what `original` does, whose parts it shares; `fast` False runs `original` itself,
    if that takes a layout.

    With `read` [A], the last layer runs everything after its attention at those positions only.
    """

    def __init__(self, original: Any, config: Any, *, last: bool) -> None:
        super().__init__()
        self.parts = parts = ARCHITECTURES[config.model_type]
        norms = ("ln_attn", "", "ln_mlp", "") if hasattr(original, "ln_attn") else parts.norms
        self.norms = [name if hasattr(original, name) else "" for name in norms]
        # under their old names, which are those of the weights in files
        for name in filter(None, (parts.attention, "mlp", *self.norms)):
            setattr(self, name, getattr(original, name))
        self.shape = _Shape(getattr(original, parts.attention), config)
        self.hidden_original = [original]  # in a list, so that its weights are not counted twice
        self.fast, self.last = True, last

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if not self.fast and self.parts.takes_layout:
            out: Tensor = self.hidden_original[0](hidden_states, **kwargs)
            return out
        # cos and sin [B * T, 1, D], with the sign that `rotate` wants
        cos, sin = kwargs["position_embeddings"]
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        angles = (cos.flatten(0, 1)[:, None], signed.flatten(0, 1)[:, None])
        read = kwargs.get("read") if self.last else None
        return self._forward(hidden_states, angles, kwargs["layout"], read)

    def _forward(
        self, hidden: Tensor, angles: Angles, layout: Layout, read: Tensor | None
    ) -> Tensor:
        x = hidden.flatten(0, 1)  # [B * T, E]
        normed = self._norm(0, x)
        attended = self._attention(normed, angles, layout, hidden.shape[0])
        # attention needs every position, the rest only those that are read: [A, E] from here on
        if read is not None:
            x, normed, attended = (y.index_select(0, read) for y in (x, normed, attended))
        output = getattr(getattr(self, self.parts.attention), self.parts.out)
        attended = self._norm(1, project(attended, [output])[0])
        if self.shape.parallel:
            inner = self._norm(2, x) if self.norms[2] else normed
            out = x + attended + self._mlp(inner)
        else:
            x = x + attended
            out = x + self._norm(3, self._mlp(self._norm(2, x)))
        return out.view(hidden.shape[0], -1, hidden.shape[2])

    def _attention(self, x: Tensor, angles: Angles, layout: Layout, batch: int) -> Tensor:
        """x [B * T, E] -> [B * T, H * D]."""
        q, k, v = self._heads(x)
        q, k, v = (
            y.to(v.dtype).view(batch, -1, *y.shape[1:]).transpose(1, 2)  # [B, H or G, T, D]
            for y in (rotate_part(q, *angles), rotate_part(k, *angles), v)
        )
        layer: int = getattr(self, self.parts.attention).layer_idx
        out = layout.attend(layer, q, k, v, self.shape.rule)
        return out.transpose(1, 2).reshape(x.shape[0], -1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, E] -> queries [T, H, D], keys and values [T, G, D]."""
        attention, shape = getattr(self, self.parts.attention), self.shape
        outs = project(x, [getattr(attention, name) for name in self.parts.qkv])
        if shape.clip is not None:
            outs = [y.clamp(-shape.clip, shape.clip) for y in outs]
        if self.parts.qkv == ("query_key_value",):
            # of each group its queries, its key and its value
            whole = outs[0].view(x.shape[0], shape.groups, -1, shape.size)  # [T, G, n + 2, D]
            return whole[:, :, :-2].flatten(1, 2), whole[:, :, -2], whole[:, :, -1]
        if len(outs) == 1:
            keys = shape.groups * shape.size
            sizes = [outs[0].shape[1] - 2 * keys, keys, keys]
            outs = list(torch.split(outs[0], sizes, 1))
        for i, name in enumerate(shape.norms):
            # a norm of one head or of all of them
            norm = getattr(attention, name)
            outs[i] = self._normed(norm, outs[i].reshape(-1, norm.weight.shape[0]))
        q, k, v = (y.reshape(x.shape[0], -1, shape.size) for y in outs)
        return q, k, v

    def _mlp(self, x: Tensor) -> Tensor:
        names = "act_fn", "activation_fn", "act"
        act = next(getattr(self.mlp, name) for name in names if hasattr(self.mlp, name))
        layers = [getattr(self.mlp, name) for name in self.parts.up]
        laid_out = [layer.__dict__.get("forward") for layer in layers]
        if self.shape.silu and len(layers) == 2 and isinstance(laid_out[0], LaidOut):
            inner = laid_out[1].times(x, laid_out[0](x, "swish"))
            return project(inner, [getattr(self.mlp, self.parts.down)])[0]
        outs = project(x, layers)
        inner = outs[0]
        if self.parts.gated:
            gate, up = outs if len(outs) == 2 else inner.chunk(2, -1)
            inner = swiglu(gate, up) if self.shape.silu else act(gate) * up
        else:
            inner = act(inner)
        return project(inner, [getattr(self.mlp, self.parts.down)])[0]

    def _norm(self, place: int, x: Tensor) -> Tensor:
        name = self.norms[place]
        return self._normed(getattr(self, name), x) if name else x

    def _normed(self, norm: Any, x: Tensor) -> Tensor:
        weight = getattr(norm, "weight", None)
        if weight is None or isinstance(norm, nn.LayerNorm):
            normed: Tensor = norm(x)
            return normed
        eps = norm.eps if self.parts.centred else norm.variance_epsilon
        if self.parts.centred:
            weight = 1 + weight.float()
        elif self.shape.wide_norms:
            weight = weight.float()
        return rms_norm(x, weight, eps)


class _Shape:
    """What the config says of a layer beside the sizes of its weights."""

    def __init__(self, attention: Any, config: Any) -> None:
        kind, heads = config.model_type, config.num_attention_heads
        self.size: int = getattr(attention, "head_dim", None) or attention.head_size
        self.groups = heads // getattr(attention, "num_key_value_groups", 1)
        self.parallel = kind == "phi"
        if kind == "gpt_neox":
            self.parallel = config.use_parallel_residual
        elif kind == "falcon":
            self.parallel = config.new_decoder_architecture or config.parallel_attn
            self.groups = attention.num_kv_heads
        per_layer = getattr(attention, "sliding_window", None)
        window = config.sliding_window if kind in ("mistral", "phi3") else per_layer
        # that of Gemma 3 is in its config, and transformers does not use it
        cap = attention.attn_logit_softcapping if kind == "gemma2" else None
        self.rule = Rule(getattr(attention, "scaling", None), window, cap)
        self.clip: float | None = config.clip_qkv if kind == "olmo" else None
        names = "q_norm", "k_norm", "q_layernorm", "k_layernorm"
        self.norms = [name for name in names if hasattr(attention, name)]
        # transformers multiplies by these weights before it rounds
        self.wide_norms = kind == "olmo2"
        self.silu = getattr(config, "hidden_act", None) == "silu"


def install(net: Any) -> None:
    """Replace the layers that FastLayer can stand for; other models keep their own."""
    parts = ARCHITECTURES.get(net.config.model_type)
    if parts is None or (parts.takes_layout and not usable("fused layers")):
        return
    layers = getattr(net.base_model, parts.layers)
    for index, layer in enumerate(layers):
        layers[index] = FastLayer(layer, net.config, last=index == len(layers) - 1)
    if not parts.takes_layout:
        net.base_model.forward = partial(_run_falcon, net.base_model)


def _run_falcon(
    model: Any, input_ids: Tensor, position_ids: Tensor, *, layout: Layout, **options: Any
) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    hidden = model.word_embeddings(input_ids)
    angles, read = model.rotary_emb(hidden, position_ids=position_ids), options.get("read")
    for layer in model.h:
        hidden = layer(hidden, position_embeddings=angles, layout=layout, read=read)
    return BaseModelOutput(last_hidden_state=model.ln_f(hidden))


def trims(net: Any) -> bool:
    """Whether the last layer can compute the states at some positions only."""
    layers = fast_layers(net)
    return bool(layers) and layers[-1].fast


def recompute(net: nn.Module, *, on: bool = True) -> bool:
    """Let each decoder block keep only its input for the backward pass (gradient checkpointing,
    arXiv 1604.06174); with `on` False, all again. Returns whether the model has such blocks.

    It does not matter whether adapters or all weights train, nor in which mode the net is.
    """
    blocks = [m for m in net.modules() if isinstance(m, (FastLayer, GradientCheckpointingLayer))]
    for block in blocks:
        vars(block).pop("forward", None)
        if on:
            vars(block)["forward"] = partial(_checkpointed, block.forward)
    return bool(blocks)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


def fast_layers(net: nn.Module) -> list[FastLayer]:
    """The layers that `install` put in."""
    return [module for module in net.modules() if isinstance(module, FastLayer)]
