"""Models on the Hub: which of their files are fetched, and why one cannot be had."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bezoar import io
from bezoar.errors import DataError, RecipeError, first_line

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
CUSTOM = ("RefinedWeb", "RefinedWebModel")
"""Falcon's first names, whose code came with the model; `bezoar convert` makes Falcon of them."""
_BESIDE = ["*.json", "*.model", "*.txt", "*.jinja"]


def fetch(path: str, *, pickled: bool = False) -> Path:
    """The snapshot of a model with its config, its tokenizer and its weights, and nothing else: the
    safetensors, or with `pickled` the pickled ones. RecipeError if the Hub does not give it."""
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    whole, index = (PICKLED, PICKLED_INDEX) if pickled else (WHOLE, INDEX)
    try:
        folder = Path(snapshot_download(path, allow_patterns=_BESIDE))
        # many repositories hold their weights in several formats: only those named are fetched
        names, revision = shards(folder / index), folder.name
        if names:
            snapshot_download(path, revision=revision, allow_patterns=names)
        else:
            with suppress(LocalEntryNotFoundError):  # without a network the folder is what there is
                hf_hub_download(path, whole, revision=revision)
    except RemoteEntryNotFoundError:
        fault = "" if pickled else conversion(path, None, list_repo_files(path, revision=revision))
        fault = fault or f"there is no {whole} in it to load or to convert; name another model."
        raise RecipeError(f"model {path}: {fault}") from None
    # the Hub client has dozens of error types; all mean that the model is not there
    except Exception as error:
        raise RecipeError(f"model {path}: {hub_fault('model', path, error)}") from error
    return folder


def fetch_settings(path: str) -> Path:
    """The snapshot of a model with its config and its tokenizer alone."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=_BESIDE))
    except Exception as error:
        raise RecipeError(f"model {path}: {hub_fault('model', path, error)}") from error


def shards(index: Path) -> list[str]:
    """The files that an index names; none if there is no index or it is broken."""
    with suppress(DataError, OSError):
        table = io.read_object(index).get("weight_map")
        if isinstance(table, dict):
            return sorted({name for name in table.values() if isinstance(name, str)})
    return []


def converted_folder(path: str) -> Path:
    """Where `bezoar convert` puts a model of the Hub."""
    return io.cache_dir() / "converted" / path.replace("/", "--")


def hub_fault(kind: str, name: str, error: Exception) -> str:
    """Why the Hub does not give a model or data set, and what to do."""
    from huggingface_hub.errors import GatedRepoError

    if not isinstance(error, GatedRepoError):
        fault = f"the Hub did not give it ({first_line(error)})"
        return f"{fault}; check the name, the access and the network."
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    status = getattr(error.response, "status_code", None)
    if status == 403:
        fault = "it is gated, and the account of HF_TOKEN has no access"
        return f"{fault}; accept its terms at {page} (some are granted by hand, later)."
    return f"it is gated; accept its terms at {page} and set HF_TOKEN to a token of that account."


def refuse_unusable(name: str, info: Any) -> None:
    """DataError for a model that has to be converted; `info` is what the Hub says of it."""
    files = [file.rfilename for file in info.siblings or ()]
    fault = conversion(name, (info.config or {}).get("model_type"), files)
    if fault and not converted_folder(name).is_dir():
        raise DataError(f"model {name}: {fault}")


def conversion(path: str, model_type: Any, names: Iterable[str]) -> str:
    """What to do with a model of these files if it needs code that came with it, or if its weights
    are pickled alone; else ""."""
    found = [name for name in names if "/" not in name]
    bins = [name for name in found if re.fullmatch(r"pytorch_model.*\.bin", name)]
    if model_type in CUSTOM:
        fault = f"{model_type} needs code that came with the model, which never runs"
    elif bins and WHOLE not in found and INDEX not in found:
        fault = f"its weights are pickled ({bins[0]}), and never loaded as such"
    else:
        return ""
    if Path(path).is_dir():
        return f"{fault}; run `bezoar convert {path} FOLDER` once and name FOLDER."
    return f"{fault}; run `bezoar convert {path}` once, then the same command again."
