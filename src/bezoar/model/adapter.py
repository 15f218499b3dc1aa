"""An adapter's folder in peft's format: read whole and proved to fit the model, or refused by name.

I inputs, O outputs of a layer, r the adapter's rank there.
"""

import math
import re
from pathlib import Path
from typing import Any

from torch import nn

from bezoar.errors import DataError
from bezoar.io import read_object, write_json
from bezoar.model.folder import named
from bezoar.model.linear import LoRAWeights, linear_names
from bezoar.model.spec import LoRA
from bezoar.model.tensors import load_tensors, save_tensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ELSEWHERE = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "lora_bias",
    "use_qalora",
    "alora_invocation_tokens",
    "modules_to_save",
)
"""Settings of peft that change what an adapter computes in ways that a stack does not."""
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight", re.DOTALL)


def read_adapter(folder: Path, net: nn.Module) -> dict[str, LoRAWeights]:
    """The adapters in a folder by the names of the net's linear layers. DataError names what is
    lacking, left over or of another shape."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise DataError(
            f"{folder}: no {WEIGHTS} in it; name a folder that an adapter was saved to."
        )
    config = read_object(folder / CONFIG)
    scale = _scale(config, folder / CONFIG)
    state = load_tensors(file)
    parts = {key: match.groups() for key in state if (match := _KEY.fullmatch(key))}
    linear: dict[str, Any] = dict(linear_names(net, "all-linear"))
    strange = [key for key in state if key not in parts or parts[key][0] not in linear]
    if strange or not state:
        what = (
            f"it has {named(strange)}, for which the model has no layer that an adapter can"
            " stand on"
            if state
            else "it has no tensor"
        )
        raise DataError(f"{file}: {what}; name an adapter that was trained on this model.")
    found = {name for name, _ in parts.values()}
    wanted = {_key(name, half) for name in found | _expected(config, linear) for half in "AB"}
    if lacking := wanted - state.keys():
        raise DataError(
            f"{file}: it lacks {named(lacking)}, which {CONFIG} asks for; save or fetch the adapter"
            " again."
        )
    for name in found:
        layer, rank = linear[name], config["r"]
        for half, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            tensor = state[_key(name, half)]
            if tuple(tensor.shape) != shape or not tensor.is_floating_point():
                told = f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
                raise DataError(
                    f"{file}: {_key(name, half)} is {told}, and the model and {CONFIG} ask for"
                    f" {list(shape)}; name an adapter that fits."
                )
    return {
        name: LoRAWeights(state[_key(name, "A")], state[_key(name, "B")], scale=scale, dropout=0.0)
        for name in sorted(found)
    }


def save_adapter(folder: Path, lora: LoRA, adapters: dict[str, LoRAWeights], *, base: str) -> None:
    """Write adapters by the names of their layers; durable on return."""
    targets = sorted({name.rsplit(".", 1)[1] for name in adapters})
    save_tensors(
        folder / WEIGHTS,
        {key: tensor for name, one in adapters.items() for key, tensor in keyed(name, one).items()},
    )
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": targets,
            "bias": "none",
            "inference_mode": True,
        },
    )


def keyed(name: str, adapter: LoRAWeights) -> dict[str, nn.Parameter]:
    """A [r, I] and B [O, r] of a layer's adapter under the names that peft gives them."""
    return {_key(name, "A"): adapter.down, _key(name, "B"): adapter.up}


def _key(name: str, half: str) -> str:
    return f"base_model.model.{name}.lora_{half}.weight"


def _scale(config: dict[str, Any], file: Path) -> float:
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise DataError(
            f"{file}: the adapter is of the kind {config['peft_type']!r:.40}, and a stack holds"
            " LoRA alone; name another or merge it first."
        )
    if other := [key for key in _ELSEWHERE if config.get(key)]:
        raise DataError(
            f"{file}: the adapter uses {named(other)}, which a stack cannot hold (DoRA, patterns,"
            " trained parts beside it); merge it first."
        )
    if config.get("bias", "none") != "none":
        raise DataError(
            f"{file}: the adapter trains biases, which a stack cannot hold; merge it first."
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise DataError(
            f"{file}: r is {rank!r:.40}, and a whole number above 0 belongs there; mend the file."
        )
    if type(alpha) not in (int, float) or not math.isfinite(alpha):  # type: ignore[arg-type]
        raise DataError(
            f"{file}: lora_alpha is {alpha!r:.40}, and a number belongs there; mend the file."
        )
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))  # type: ignore[operator]


def _expected(config: dict[str, Any], linear: dict[str, Any]) -> set[str]:
    """The layers that the config asks for. A pattern, or settings that leave some out, ask for
    none: what the file holds is then all."""
    targets = config.get("target_modules")
    if config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return set()
    ends = tuple(f".{target}" for target in targets) if isinstance(targets, list) else ()
    return {
        name for name in linear if targets == "all-linear" or (ends and f".{name}".endswith(ends))
    }
