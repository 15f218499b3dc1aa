"""The architectures whose decoder layers bezoar computes itself: what their parts are called.

Every other one that transformers knows runs on transformers' own layers, if it computes what
transformers does (see `examine`). Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bezoar.errors import DataError

Norms = tuple[str, str, str, str]
_LLAMA: Norms = ("input_layernorm", "", "post_attention_layernorm", "")
_GEMMA2: Norms = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Architecture:
    """The names that transformers gives to the parts of a decoder layer.

    `norms` stand before and after the attention, before and after the MLP; "" where there is none,
    and a layer may lack one that is named.
    """

    norms: Norms = _LLAMA
    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    out: str = "o_proj"
    up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    gated: bool = True  # down(act(gate) * up), else down(act(up))
    centred: bool = False  # a norm multiplies by 1 + its weight
    layers: str = "layers"
    tied: bool = False  # whether one matrix embeds and unembeds if the config does not say
    takes_layout: bool = True  # whether transformers' layers hand a layout to their attention

    @property
    def linear(self) -> tuple[str, ...]:
        """The last names of a layer's linear layers, which adapters can be on."""
        return (*self.qkv, self.out, *self.up, self.down)


_NEOX = Architecture(
    attention="attention",
    qkv=("query_key_value",),
    out="dense",
    up=("dense_h_to_4h",),
    down="dense_4h_to_h",
    gated=False,
)
ARCHITECTURES = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma": Architecture(centred=True, tied=True),
    "gemma2": Architecture(_GEMMA2, centred=True, tied=True),
    "gemma3_text": Architecture(_GEMMA2, centred=True, tied=True),
    "olmo": Architecture(),
    "olmo2": Architecture(("", "post_attention_layernorm", "", "post_feedforward_layernorm")),
    "phi": Architecture(out="dense", up=("fc1",), down="fc2", gated=False),
    "phi3": Architecture(qkv=("qkv_proj",), up=("gate_up_proj",)),
    "gpt_neox": _NEOX,
    "falcon": replace(_NEOX, attention="self_attention", layers="h", tied=True, takes_layout=False),
}
"""By the model_type of a config.json. SmolLM, Yi, OpenLLaMA and others are of type llama."""


def refuse_unfit(config: Mapping[str, Any], file: Path) -> None:
    """DataError for a known architecture with an attention that bezoar does not compute."""
    faults = {
        ("falcon", "alibi"): "positions as a bias on the scores of attention (alibi)",
        ("gemma3_text", "use_bidirectional_attention"): "attention in both directions",
    }
    for (kind, key), what in faults.items():
        if config["model_type"] == kind and config.get(key):
            fault = f"the model has {what}, which bezoar does not compute"
            raise DataError(f"{file}: {key}: {fault}; name another model.")
