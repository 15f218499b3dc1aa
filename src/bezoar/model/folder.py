"""What lies in a model's folder, checked before anything is opened. Imports no torch."""

import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from bezoar.errors import DataError, RecipeError
from bezoar.io import read_object

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
)
_COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|heads?|experts?|labels|groups|blocks)")
_MOST, _MOST_PARTS = 2**31, 2**16
"""The largest number in a config.json, and the largest count of parts: far above any model's."""
_DIRECTIVES = re.compile(
    r"auto_map|transformers_weights|fusion_config|distributed_config|kernel_config|_?(attn|experts)_implementation"
)
"""Keys that tell transformers which code or files to use; only bezoar decides that."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model with unquantised weights. DataError names the wrong key."""
    file = folder / "config.json"
    values = read_object(file)
    if not isinstance(values.get("model_type"), str):
        raise DataError(f"{file}: it names no model_type; fetch the file from the model's source.")
    for key in _SIZES:
        size = values.get(key)
        # some architectures have a size for each layer
        if type(size) not in (int, list, dict, type(None)) or (isinstance(size, int) and size < 1):
            raise DataError(
                f"{file}: {key} is {size!r:.60}, not a whole number above 0; mend the file."
            )
    _check_numbers(values, file)
    for part in (values, values.get("text_config")):
        method = part.get("quantization_config") if isinstance(part, dict) else None
        if method is not None:
            raise DataError(
                f"{file}: the weights are quantised ({printable(str(method), 60)}), which cannot be"
                " read here; name the model that they were made from."
            )
    cleaned: dict[str, Any] = _cleaned(values)
    return cleaned


def _check_numbers(value: Any, file: Path, path: str = "") -> None:
    """Refuse what would exhaust memory or turn every result into NaN."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_numbers(inner, file, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, file, path)
    elif isinstance(value, float) and math.isnan(value):
        raise DataError(f"{file}: {path} is not a number; mend the file.")
    elif isinstance(value, int):
        most = _MOST_PARTS if _COUNT.fullmatch(path.rpartition(".")[2]) else _MOST
        if abs(value) > most:
            raise DataError(f"{file}: {path} is {value!s:.20}, which no model has; mend the file.")


def _cleaned(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _cleaned(inner) for key, inner in value.items() if not _DIRECTIVES.fullmatch(key)}


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The files of a model's weights, and the tensors that an index lists for each.

    RecipeError if there are none, DataError for an index that names files outside the folder, of
    another kind or missing.
    """
    if (folder / WHOLE).is_file():
        return {folder / WHOLE: set()}
    index = folder / INDEX
    if not index.is_file():
        # quantised weights have other file names, and the config says so in better words
        read_config(folder)
        raise RecipeError(
            f"model {folder}: no {WHOLE} or {INDEX} in it; convert the weights, pickled ones are"
            " never loaded."
        )
    table = read_object(index).get("weight_map")
    if not isinstance(table, dict) or not {type(name) for name in table.values()} == {str}:
        raise DataError(
            f"{index}: its weight_map does not say which file holds which tensor; fetch or save the"
            " model again."
        )
    files: dict[Path, set[str]] = {}
    for tensor, name in table.items():
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
        if path.suffix != ".safetensors" or outside:
            raise DataError(
                f"{index}: {printable(tensor)} is said to lie in {name!r:.80}, but only"
                " .safetensors files in the folder are read; convert the weights."
            )
        files.setdefault(folder / path, set()).add(tensor)
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{file}: no such file, but {INDEX} names it; fetch or save the model again."
            )
    return files


def refuse_misfits(loading_info: dict[str, Any], source: str) -> None:
    """DataError if transformers would draw weights at random or leave some unused."""
    shapes = {
        name: f"{name} {list(actual)} instead of {list(expected)}"
        for name, actual, expected in loading_info["mismatched_keys"]
    }
    faults = {
        "lack": loading_info["missing_keys"] - shapes.keys(),
        "have too much": loading_info["unexpected_keys"],
        "have in another shape": shapes.values(),
        "have not as floating-point numbers": loading_info.get("not_float"),
    }
    if parts := [f"{fault} {some_of(names)}" for fault, names in faults.items() if names]:
        raise DataError(
            f"{source}: the weights do not fit the config: they {'; they '.join(parts)}; fetch or"
            " save the model again."
        )


def some_of(names: Iterable[str], most: int = 3) -> str:
    """The first of several names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(printable(name) for name in ordered[:most]) + more


def printable(text: str, most: int = 300) -> str:
    """`text` on one line, cut, with control characters written out."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line).rstrip(".")
    return line if len(line) <= most else line[:most] + "..."


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    return printable(str(error)) or type(error).__name__
