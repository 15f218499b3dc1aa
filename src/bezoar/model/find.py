"""Whether a model is on this machine, without fetching or unpacking it. Imports no torch."""

from pathlib import Path
from typing import Any

from bezoar import io
from bezoar.model.resolve import (
    PACKAGED,
    check_folder,
    check_hub_id,
    package_folder,
    read_config,
    whole,
)
from bezoar.reading import user_path


def find_model(path: str) -> Path | None:
    """The folder of a model that is on this machine; None for one of the Hub or of a package that
    has yet to be fetched or unpacked. RecipeError or DataError if it could never be loaded."""
    if path in PACKAGED:
        folder = io.cache_dir() / "models" / path
        if not whole(folder):
            package_folder(path)
            return None
    else:
        folder = user_path(path)
        if not folder.is_dir():
            check_hub_id(path)
            return None
    check_folder(path, folder)
    read_config(folder)
    return folder


def local_config(path: str) -> dict[str, Any] | None:
    """The config.json of a model if it is on this machine; fetches and unpacks nothing."""
    folder = io.cache_dir() / "models" / path if path in PACKAGED else user_path(path)
    there = whole(folder) if path in PACKAGED else (folder / "config.json").is_file()
    return read_config(folder) if there else None
