"""What a training stage will hold in memory, from the model's config.json and the recipe. Imports
no torch without a GPU.

T tokens of a micro-batch, E hidden size, F inner size of the MLP, L layers, V vocabulary.
"""

import os
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.model.spec import LoRA, ModelSpec

PROCESS_BYTES = 490 * 10**6
"""Python with its libraries, and what reading a model leaves behind."""
HEAD_BYTES = 300 * 10**6
"""Chunks of logits, and the output embedding laid out for the matrix kernel."""
PAGE = 2**21
"""On a CPU, tensors of at least this size take whole pages of it (see model.load.quiet)."""
_KEYS = {
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
}
"""What a config.json of the Llama family says."""
_BYTES = {"bfloat16": 2, "float32": 4}


def llama_like(config: dict[str, Any]) -> bool:
    """Whether a config.json says what a prediction needs, with one number for all layers."""
    return all(isinstance(config.get(key), int) for key in _KEYS)


@dataclass(frozen=True)
class Memory:
    """Bytes of the parts of a training process."""

    process: int
    weights: int
    trained: int
    head: int
    activations: int

    @property
    def total(self) -> int:
        """The expected peak."""
        return self.process + self.weights + self.trained + self.head + self.activations


def predict_memory(
    config: dict[str, Any], spec: ModelSpec, lora: LoRA | None, *, tokens: int, on_gpu: bool = False
) -> Memory | None:
    """The peak of training with micro-batches of at most `tokens` tokens on the model of this
    config.json; None if it is not Llama-like."""
    if not llama_like(config):
        return None
    shapes = layer_shapes(config)
    wide = _BYTES[spec.dtype] if lora is not None else 4
    embeddings = (
        config["vocab_size"]
        * config["hidden_size"]
        * (1 if config.get("tie_word_embeddings") else 2)
    )
    linear = config["num_hidden_layers"] * sum(i * o for i, o in shapes.values())
    packed = linear * 33 // 64 if spec.quantize == "nf4" else 0  # 4 bits, and 8 bits a block of 64
    dense = (
        linear * wide
        if spec.quantize == "none" or not on_gpu
        else max(i * o for i, o in shapes.values()) * wide
    )
    weights = embeddings * wide + packed + dense
    trained = 16 * (linear + embeddings if lora is None else _adapter_size(config, shapes, lora))
    # the weights themselves stand above
    trained -= 4 * (linear + embeddings) if lora is None else 0
    kept, beside = (
        _kept(config, shapes, lora, _BYTES[spec.dtype]),
        _beside(config, shapes, _BYTES[spec.dtype]),
    )
    whole = [
        sum(size * tokens if on_gpu else _paged(size * tokens) for size in sizes)
        for sizes in (kept, beside)
    ]
    return Memory(
        0 if on_gpu else PROCESS_BYTES,
        weights,
        trained,
        HEAD_BYTES,
        config["num_hidden_layers"] * whole[0] + whole[1],
    )


def largest_budget(
    config: dict[str, Any], spec: ModelSpec, lora: LoRA | None, *, free: int, on_gpu: bool = False
) -> int | None:
    """The most tokens that a micro-batch can have within `free` bytes; 0 when not even the weights
    fit; None as above."""

    def fits(tokens: int) -> bool:
        found = predict_memory(config, spec, lora, tokens=tokens, on_gpu=on_gpu)
        return found is None or found.total <= free

    if not llama_like(config):
        return None
    return bisect_left(range(2**24), True, key=lambda tokens: not fits(tokens + 1))


def _paged(size: int) -> int:
    return size if size < PAGE else -(-size // PAGE) * PAGE


def available() -> tuple[int, bool]:
    """Bytes that could be taken now where training would run, and whether that is a GPU; torch is
    asked where there may be one."""
    if Path("/dev/nvidiactl").exists():
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.mem_get_info()[0]), True
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return (
        found[0] if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    ), False


def layer_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of a layer's products by name."""
    E, F, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or E // heads
    keys = size * (config.get("num_key_value_heads") or heads)
    return {
        "q_proj": (E, size * heads),
        "k_proj": (E, keys),
        "v_proj": (E, keys),
        "o_proj": (size * heads, E),
        "gate_proj": (E, F),
        "up_proj": (E, F),
        "down_proj": (F, E),
    }


def _targets(shapes: dict[str, tuple[int, int]], lora: LoRA) -> dict[str, tuple[int, int]]:
    return (
        shapes
        if lora.targets == "all-linear"
        else {name: shape for name, shape in shapes.items() if name in lora.targets}
    )


def _adapter_size(config: dict[str, Any], shapes: dict[str, tuple[int, int]], lora: LoRA) -> int:
    return sum(lora.r * (i + o) for i, o in _targets(shapes, lora).values()) * int(
        config["num_hidden_layers"]
    )


def _kept(
    config: dict[str, Any], shapes: dict[str, tuple[int, int]], lora: LoRA | None, wide: int
) -> list[int]:
    """Bytes a token of each tensor that a layer keeps for the backward pass."""
    E, F = config["hidden_size"], config["intermediate_size"]
    queries, keys = shapes["q_proj"][1], shapes["k_proj"][1]
    if lora is None:  # autograd's own, norms and residuals in float32
        return [queries * wide] * 2 + [keys * wide] * 4 + [F * wide] * 4 + [E * 4] * 4
    # inputs of the norms and their scales, q, k, v with the log-sum-exps, gate and up
    kept = (
        [E * wide] * 2
        + [4] * 2
        + [queries * wide]
        + [keys * wide] * 2
        + [config["num_attention_heads"] * 4]
        + [F * wide] * 2
    )
    names = _targets(shapes, lora)
    for group in (
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ):
        count = sum(name in names for name in group)
        if count:  # the input, its mask, and what the adapters make of it
            kept += [
                shapes[group[0]][0] * wide,
                shapes[group[0]][0] if lora.dropout else 0,
                lora.r * wide * count,
            ]
    return kept


def _beside(config: dict[str, Any], shapes: dict[str, tuple[int, int]], wide: int) -> list[int]:
    """Bytes a token of each tensor that the widest step holds beside what is kept."""
    E, F = config["hidden_size"], config["intermediate_size"]
    return (
        [F * wide] * 4 + [E * wide] * 4 + [shapes["q_proj"][1] * 4] + [shapes["k_proj"][1] * 4] * 4
    )
