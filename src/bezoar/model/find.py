"""Whether a model is on this machine, without fetching or unpacking it. Imports no torch."""

from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bezoar import io
from bezoar.errors import DataError, RecipeError
from bezoar.model.architectures import refuse_unfit
from bezoar.model.hub import converted_folder
from bezoar.model.resolve import (
    PACKAGED,
    check_folder,
    check_hub_id,
    package_folder,
    read_config,
    whole,
)
from bezoar.reading import user_path

INDICES = "trainable_token_indices"
"""The key of peft that names the tokens whose rows an adapter holds."""


def local_folder(path: str) -> Path | None:
    """The folder of a model that is on this machine; None for one of the Hub or of a package that
    has yet to be fetched or unpacked. RecipeError or DataError if it could never be loaded."""
    folder, check = _folder(path), package_folder if path in PACKAGED else check_hub_id
    if not (whole(folder) if path in PACKAGED else folder.is_dir()):
        check(path)
        return None
    check_folder(path, folder)
    refuse_unfit(read_config(folder), folder / "config.json")
    return folder


def local_config(path: str) -> dict[str, Any] | None:
    """The config of a model if it is on this machine; fetches and unpacks nothing."""
    folder = _folder(path)
    there = whole(folder) if path in PACKAGED else (folder / "config.json").is_file()
    if path in PACKAGED and not there:
        return _packaged_config(path)
    if not there and (fetched := _fetched_config(path)):
        return read_config(fetched)
    return read_config(folder) if there else None


@cache
def _packaged_config(path: str) -> dict[str, Any] | None:
    """What the head of a package's file says; None without the package or its reader."""
    if find_spec("torch") is None or find_spec("gguf") is None:
        return None
    with suppress(RecipeError, OSError, ValueError):
        source, file = package_folder(path), PACKAGED[path][1]
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(source, gguf_file=file, trust_remote_code=False)
        return dict(config.to_dict())
    return None


def _fetched_config(path: str) -> Path | None:
    """The folder in the Hub's cache that holds the config of a model, alone or with the rest."""
    if path.count("/") != 1 or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # a name that the Hub could not have
        file = try_to_load_from_cache(path, "config.json")
        return Path(file).parent if isinstance(file, str) else None
    return None


def _folder(path: str) -> Path:
    """Where the model lies once it is fetched or unpacked, if it is none of the Hub."""
    if path in PACKAGED:
        return io.cache_dir() / "models" / path
    folder, converted = user_path(path), converted_folder(path)
    return converted if converted.is_dir() and not folder.is_dir() else folder


def added_names(adapter: Path) -> tuple[str, ...]:
    """The tokens whose rows an adapter's folder holds, in the order of their ids."""
    indices = io.read_object(adapter / "adapter_config.json").get(INDICES) or {}
    wanted = sorted({token_id for ids in indices.values() for token_id in ids})
    if not wanted:
        return ()
    listed = io.read_object(adapter / "tokenizer.json").get("added_tokens") or []
    names = {token["id"]: str(token["content"]) for token in listed}
    if lacking := [token_id for token_id in wanted if token_id not in names]:
        fault = f"its tokenizer.json has no added token {lacking[0]}, whose row the adapter holds"
        raise DataError(f"{adapter}: {fault}; save or fetch the adapter again.")
    return tuple(names[token_id] for token_id in wanted)
