"""What lies in a model's folder, examined before anything is opened: its config.json and the files
of its weights. Imports no torch."""

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
_MOST, _MOST_COUNTED = 2**31, 2**16
"""The largest number in a config.json, and the largest of what becomes a list of parts: far above
any model's."""
_DIRECTIVES = re.compile(
    r"auto_map|transformers_weights|fusion_config|distributed_config|kernel_config|_?(attn|experts)_implementation"
)
"""Keys that tell transformers which code or files to take; here the attention, the files and the
code are ours."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model whose weights are plain numbers. DataError names the file, and the
    key that is wrong."""
    file = folder / "config.json"
    values = read_object(file)
    if not isinstance(values.get("model_type"), str):
        raise DataError(
            f"{file}: it names no model_type, so the architecture is not known; take the file from"
            " where the model came from."
        )
    for key in _SIZES:
        value = values.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, list, dict, type(None)))
            or (isinstance(value, int) and value < 1)
        ):
            raise DataError(
                f"{file}: {key} is {value!r:.60}, and a whole number above 0 belongs there; mend"
                " the file."
            )
    _check_numbers(values, file)
    parts = [part for part in (values, values.get("text_config")) if isinstance(part, dict)]
    if quantised := [
        part["quantization_config"] for part in parts if part.get("quantization_config") is not None
    ]:
        told = printable(str(quantised[0]), 60)
        raise DataError(
            f"{file}: the weights are quantised ({told}), which cannot be trained or read here;"
            " name the model that they were made from."
        )
    cleaned: dict[str, Any] = _cleaned(values)
    return cleaned


def _check_numbers(value: Any, file: Path, at: str = "") -> None:
    key = at.rpartition(".")[2]
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_numbers(inner, file, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, file, at)
    elif isinstance(value, float) and math.isnan(value):
        raise DataError(f"{file}: {at} is not a number; mend the file.")
    elif isinstance(value, int) and abs(value) > (
        _MOST_COUNTED if _COUNT.fullmatch(key) else _MOST
    ):
        raise DataError(f"{file}: {at} is {value!s:.20}, which no model has; mend the file.")


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _cleaned(inner) for key, inner in value.items() if not _DIRECTIVES.fullmatch(key)
        }
    return value


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The files of a model's weights, and the tensors that each must hold (none named where there
    is no index).

    RecipeError where there is no such file, DataError for an index that names files outside the
    folder, of another kind or not there.
    """
    if (folder / WHOLE).is_file():
        return {folder / WHOLE: set()}
    index = folder / INDEX
    if not index.is_file():
        read_config(folder)  # quantised weights lie under other names, and the config says so
        raise RecipeError(
            f"model {folder}: the folder has no {WHOLE} or {INDEX}; convert the weights, pickled"
            " ones are never loaded."
        )
    table = read_object(index).get("weight_map")
    if (
        not isinstance(table, dict)
        or not table
        or not all(isinstance(name, str) for name in table.values())
    ):
        raise DataError(
            f"{index}: its weight_map does not say which file holds which tensor; fetch or save the"
            " model again."
        )
    files: dict[Path, set[str]] = {}
    for tensor, name in table.items():
        path = PurePosixPath(name)
        if (
            path.suffix != ".safetensors"
            or path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or "\0" in name
        ):
            raise DataError(
                f"{index}: {printable(tensor)} is said to lie in {name!r:.80}, and only"
                " .safetensors files in the folder are read; convert the weights."
            )
        files.setdefault(folder / path, set()).add(tensor)
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{file}: no such file, and {INDEX} names it; fetch or save the model again."
            )
    return files


def named(names: Iterable[str], most: int = 3) -> str:
    """The first of several names, and how many more there are."""
    known = sorted(names)
    return ", ".join(printable(name) for name in known[:most]) + (
        f" and {len(known) - most} more" if len(known) > most else ""
    )


def printable(text: str, most: int = 300) -> str:
    """`text` on one line, cut, what steers a terminal written out."""
    text = "".join(
        c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split())
    ).rstrip(".")
    return text if len(text) <= most else text[:most] + "..."


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    return printable(str(error)) or type(error).__name__
