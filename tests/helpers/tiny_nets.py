"""Tiny random models of every architecture that bezoar computes itself, saved as model folders."""

import shutil
from pathlib import Path
from typing import Any

_SIZES: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 259,
    "pad_token_id": 0,
}
_WINDOWS = ["sliding_attention", "full_attention"]
_FALCON = {"vocab_size": 272, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_FALCON |= {"initializer_range": 0.2, "max_position_embeddings": 512, "eos_token_id": 259}
_NEOX = {"num_key_value_heads": 4}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-rope3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"use_sliding_window": False, "sliding_window": 7}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "layer_types": _WINDOWS},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "gemma": ("gemma", {"head_dim": 16, "hidden_act": "gelu_pytorch_tanh"}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 8,
            "sliding_window": 7,
            "layer_types": _WINDOWS,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "query_pre_attn_scalar": 8, "sliding_window": 7, "layer_types": _WINDOWS},
    ),
    "phi": ("phi", {"partial_rotary_factor": 0.5, "resid_pdrop": 0.1, "hidden_act": "gelu_new"}),
    "phi-norms": ("phi", {"num_key_value_heads": 4, "qk_layernorm": True}),
    "phi3": ("phi3", {"sliding_window": None, "resid_pdrop": 0.1}),
    "phi3-window": ("phi3", {"sliding_window": 7, "partial_rotary_factor": 0.5}),
    "falcon-7b": ("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon-40b": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-11b": (
        "falcon",
        {
            **_FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "falcon-serial": (
        "falcon",
        {**_FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "gpt-neox": ("gpt_neox", {"rotary_pct": 0.25, "hidden_dropout": 0.1, **_NEOX}),
    "gpt-neox-serial": (
        "gpt_neox",
        {"use_parallel_residual": False, "attention_bias": False, **_NEOX},
    ),
    "olmo": ("olmo", {}),
    "olmo-clip": ("olmo", {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", {}),
}
"""Name of a variant: its model_type, and what its config has beside sizes."""


def make(name: str, folder: Path, tokenizer: Path, **more: Any) -> Path:
    """A random float32 model with the tokenizer in another folder; returns its own."""
    kind, settings = VARIANTS[name]
    return make_kind(kind, folder, tokenizer, **{**settings, **more})


def make_kind(kind: str, folder: Path, tokenizer: Path, **settings: Any) -> Path:
    """The same for any model_type of transformers."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {} if kind == "falcon" else _SIZES
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**sizes, **settings})
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # norms begin at 1 or 0, biases at 0, where they would hide what is done with them
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    net.save_pretrained(folder)
    for file in tokenizer.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    return folder
