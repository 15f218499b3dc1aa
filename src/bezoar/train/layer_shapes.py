"""What a config.json says of the sizes of a decoder layer. Imports no torch."""

from typing import Any

from bezoar.model.architectures import ARCHITECTURES, Architecture

Config = dict[str, Any]
"""A config.json."""
Shapes = dict[str, tuple[int, int]]
"""(inputs, outputs) of linear layers by name."""


def layer_shapes(config: Config) -> Shapes:
    """The shapes of one layer's linear layers."""
    E, F, parts = config["hidden_size"], inner_size(config), parts_of(config)
    queries, keys = head_sizes(config)
    shapes = {parts.out: (queries, E), parts.down: (F, E)}
    for names, sizes in ((parts.qkv, [queries, keys, keys]), (parts.up, [F] * (1 + parts.gated))):
        # one matrix for all, or one for each
        sizes = sizes if len(names) == len(sizes) else [sum(sizes)]
        shapes |= {name: (E, size) for name, size in zip(names, sizes, strict=True)}
    return shapes


def parts_of(config: Config) -> Architecture:
    """What the parts of a layer are called."""
    return ARCHITECTURES.get(config.get("model_type", ""), ARCHITECTURES["llama"])


def inner_size(config: Config) -> int:
    """The inner size of the MLP; 0 if the config does not say."""
    size = config.get("intermediate_size") or config.get("ffn_hidden_size")
    falcon = 4 * int(config["hidden_size"]) if config.get("model_type") == "falcon" else 0
    return size if isinstance(size, int) else falcon


def head_sizes(config: Config) -> tuple[int, int]:
    """The sizes of all queries and of all keys of a position."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    groups = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    if config.get("model_type") == "falcon" and not config.get("new_decoder_architecture"):
        groups = 1 if config.get("multi_query", True) else heads
    return size * heads, size * groups
