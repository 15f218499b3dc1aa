"""An adapter's folder in peft's format: read whole and checked against the model, or refused.

I inputs, O outputs of a layer, r the adapter's rank there, R the sum of the ranks of a stack.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.errors import DataError
from bezoar.io import read_object, write_json
from bezoar.model.added_rows import AddedRows
from bezoar.model.find import INDICES
from bezoar.model.linear import LoRAWeights, StackedLinear, linear_layers
from bezoar.model.resolve import some_of
from bezoar.model.tensors import load_tensors, save_tensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# settings of peft that change what an adapter computes in ways that a stack does not
_UNSUPPORTED = re.compile(
    r"use_dora|rank_pattern|alpha_pattern|layer_replication|lora_bias|use_qalora"
    r"|alora_invocation_tokens|modules_to_save"
)
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight", re.DOTALL)
_ROWS = re.compile(r"base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta", re.DOTALL)


def read_adapter(folder: Path, net: nn.Module) -> dict[str, LoRAWeights]:
    """The adapters in a folder by the names of the net's layers. DataError if they do not fit."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise DataError(f"{folder}: no {WEIGHTS} in it; name the folder of a saved adapter.")
    config = read_object(folder / CONFIG)
    scale, rank = _scale(config, folder / CONFIG), config["r"]
    layers = dict(linear_layers(net))
    state = {key: value for key, value in load_tensors(file).items() if not _ROWS.fullmatch(key)}
    # 1) every tensor belongs to a layer: one that is left over would silently be ignored
    matches = {key: _KEY.fullmatch(key) for key in state}
    names = {match[1] for match in matches.values() if match}
    strange = [key for key, match in matches.items() if not match or match[1] not in layers]
    if strange or not state:
        fault = f"{some_of(strange)}, but the model has no such linear layer"
        fault = fault if state else "no tensor"
        raise DataError(f"{file}: it has {fault}; name an adapter that was trained on this model.")
    # 2) every layer that should have an adapter has both halves of it
    names |= _expected(config, layers)
    if lacking := {_key(name, half) for name in names for half in "AB"} - state.keys():
        fault = f"it lacks {some_of(lacking)}, which {CONFIG} asks for"
        raise DataError(f"{file}: {fault}; save or fetch the adapter again.")
    # 3) and every half has the layer's shape
    for name in names:
        _check_shape(state, _key(name, "A"), [rank, layers[name].in_features], file)
        _check_shape(state, _key(name, "B"), [layers[name].out_features, rank], file)
    return {
        name: LoRAWeights(*_used(state, name), scale=scale, dropout=0.0) for name in sorted(names)
    }


def _used(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A and B of a layer without the ranks that are 0 in both, which `one_adapter` may add."""
    down, up = state[_key(name, "A")], state[_key(name, "B")]
    used = (down != 0).any(1) | (up != 0).any(0)
    return down[used], up[:, used]


def _check_shape(state: dict[str, Tensor], key: str, shape: list[int], file: Path) -> None:
    tensor = state[key]
    if list(tensor.shape) != shape or not tensor.is_floating_point():
        kind = f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
        fault = f"{key} is {kind}, but the model and {CONFIG} ask for {shape}"
        raise DataError(f"{file}: {fault}; name an adapter that fits.")


def read_rows(folder: Path, added: AddedRows | None) -> dict[str, Tensor]:
    """The rows of added tokens [n, E] in an adapter's folder by the names of their modules.

    DataError unless they are those of the tokens that the base model is given.
    """
    file = folder / WEIGHTS
    tensors = {
        m[1]: value for key, value in load_tensors(file).items() if (m := _ROWS.fullmatch(key))
    }
    indices = read_object(folder / CONFIG).get(INDICES) or {}
    lower = added.lower if added else {}
    expected = {name.rsplit(".", 1)[-1]: added.ids for name in lower} if added else {}
    shapes = [{name: rows.shape for name, rows in of.items()} for of in (tensors, lower)]
    if indices != expected or shapes[0] != shapes[1]:
        fault = f"it holds rows of the tokens {indices}, and its base adds {expected}"
        raise DataError(f"{file}: {fault}; name the same tokens in add_tokens of the base.")
    return tensors


def save_adapter(
    folder: Path, adapters: dict[str, LoRAWeights], *, base: str, added: AddedRows | None = None
) -> None:
    """Write adapters of one rank and one scale by the names of their layers, and the rows of added
    tokens; durable on return.

    `base` is what they stand on: a folder or a Hub id, which other tools load.
    """
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        tensors |= peft_parameters(name, adapter)
    rows = added.rows() if added is not None else {}
    tensors |= {rows_key(name): row.detach() for name, row in rows.items()}
    save_tensors(folder / WEIGHTS, tensors)
    first = next(iter(adapters.values()))
    rank = first.down.shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": first.dropout,
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in adapters}),
        "bias": "none",
        "inference_mode": True,
    }
    if added is not None:
        config[INDICES] = {name.rsplit(".", 1)[-1]: added.ids for name in rows}
    write_json(folder / CONFIG, config)


def one_adapter(net: nn.Module) -> dict[str, LoRAWeights]:
    """The whole stack of adapters as one: B = [B1 B2 ...], A = [A1; A2; ...], of one rank.

    Scales that differ are multiplied into B. Ranks of 0 fill up the layers that have fewer, and
    those without an adapter whose last name others share: some tools know one rank for all layers.
    """
    stacks = {name: _adapters(layer) for name, layer in linear_layers(net)}
    carried = {name.rsplit(".", 1)[1] for name, stack in stacks.items() if stack}
    scales = {adapter.scale for stack in stacks.values() for adapter in stack}
    scale = scales.pop() if len(scales) == 1 else 1.0
    rank = max(sum(len(adapter.down) for adapter in stack) for stack in stacks.values())
    layers = {n: la for n, la in linear_layers(net) if n.rsplit(".", 1)[1] in carried}
    return {name: _joined(stacks[name], layer, scale, rank) for name, layer in layers.items()}


def _adapters(layer: nn.Linear | StackedLinear) -> list[LoRAWeights]:
    """Those of a layer, lowest first."""
    if not isinstance(layer, StackedLinear):
        return []
    return [*layer.lower, *([layer.top] if layer.top is not None else [])]


def _joined(
    stack: Sequence[LoRAWeights], layer: nn.Linear | StackedLinear, scale: float, rank: int
) -> LoRAWeights:
    """A [R, I] and B [O, R] of a layer's adapters, with ranks of 0 up to `rank`."""
    down, up = torch.zeros(rank, layer.in_features), torch.zeros(layer.out_features, rank)
    start = 0
    for adapter in stack:
        end = start + len(adapter.down)
        down[start:end] = adapter.down.detach()
        up[:, start:end] = adapter.up.detach() * (adapter.scale / scale)
        start = end
    dropout = stack[-1].dropout if stack else 0.0
    return LoRAWeights(down, up, scale=scale, dropout=dropout)


def peft_parameters(name: str, adapter: LoRAWeights) -> dict[str, nn.Parameter]:
    """A [r, I] and B [O, r] of a layer's adapter under the names that peft gives them."""
    return {_key(name, "A"): adapter.down, _key(name, "B"): adapter.up}


def rows_key(name: str) -> str:
    """The name that peft gives the rows of added tokens in the embedding module `name`."""
    return f"base_model.model.{name}.token_adapter.trainable_tokens_delta"


def _key(name: str, half: str) -> str:
    return f"base_model.model.{name}.lora_{half}.weight"


def _scale(config: dict[str, Any], file: Path) -> float:
    """What the adapter's output is multiplied by; DataError if it is more than plain LoRA."""
    kind = str(config.get("peft_type", "LORA"))
    if kind.upper() != "LORA":
        raise DataError(f"{file}: the adapter is {kind!r:.40}, not LoRA; merge it or name another.")
    used = [key for key, value in config.items() if value and _UNSUPPORTED.fullmatch(key)]
    used += ["bias"] if config.get("bias", "none") != "none" else []
    if used:
        raise DataError(f"{file}: it uses {some_of(used)}, more than plain LoRA; merge it first.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise DataError(f"{file}: r is {rank!r:.40}, not a whole number above 0; mend the file.")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise DataError(f"{file}: lora_alpha is {alpha!r:.40}, not a number; mend the file.")
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _expected(config: dict[str, Any], layers: dict[str, nn.Linear | StackedLinear]) -> set[str]:
    """The layers that the config names; none if it names them by a pattern or excludes some."""
    targets = config.get("target_modules")
    if config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return set()
    if targets == "all-linear":
        return set(layers)
    ends = tuple(f".{target}" for target in targets) if isinstance(targets, list) else ()
    return {name for name in layers if f".{name}".endswith(ends)}
