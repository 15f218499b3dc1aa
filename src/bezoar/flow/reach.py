"""Whether what a recipe names elsewhere can be had: names on the Hub, endpoints. Costs nothing.

The Hub is asked whether a name exists, and of a model the config.json alone is fetched. An
endpoint's port is opened and closed: no request is sent.
"""

import os
import re
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from bezoar.data.files import HUB_PREFIX, hub_cache, mirrored
from bezoar.data.source import Source
from bezoar.errors import BezoarError, DataError
from bezoar.flow.recipe import Recipe
from bezoar.flow.yaml_document import KeyPath
from bezoar.llm.endpoint import Endpoint
from bezoar.model.find import local_folder
from bezoar.model.hub import hub_fault, refuse_unusable
from bezoar.model.resolve import weight_files

Kind = Literal["model", "dataset"]
_HUB_S, _CONNECT_S = 5.0, 2.0


def hub_names(
    recipe: Recipe, stale: set[str], models: Sequence[tuple[KeyPath, str]]
) -> Iterator[tuple[KeyPath, Kind, str]]:
    """(key, kind, name) of what the stages that are to run read from the Hub."""
    for key, path in models:
        if "/" in path and local_folder(path) is None:
            yield key, "model", path
    for name in (name for name in recipe.stages if name in stale):
        stage = recipe.stages[name]
        if isinstance(stage, Source) and not stage.files():
            yield ("stages", name, "path"), "dataset", stage.path
        for ref in recipe.inputs(name):
            on_hub = ref.kind == "file" and ref.name.startswith(HUB_PREFIX)
            if on_hub and mirrored(ref.name) is None and not hub_cache(ref.name).exists():
                dataset = "/".join(ref.name.removeprefix(HUB_PREFIX).split("/")[:2])
                yield ("stages", name, *ref.path.split(".")), "dataset", dataset


def check_hub(kind: Kind, name: str) -> None:
    """DataError if the Hub does not have a name or does not give it (a gate), if a model needs
    converting, or if the Hub cannot be asked and nothing is in the cache."""
    # without the package the stage says what to install
    if find_spec("huggingface_hub") is None or _cached(kind, name):
        return
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    place = f"{kind} {name}"
    if constants.HF_HUB_OFFLINE:
        fault = "it is not in the cache, and HF_HUB_OFFLINE keeps the Hub from being asked"
        raise DataError(f"{place}: {fault}; unset it, or name a folder or file.")
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        info: Any = ask(name, timeout=_HUB_S)
        # of a gated name all can read what is in it: whether it is given is known by a file alone
        files = [file.rfilename for file in info.siblings or ()] if info.gated else []
        for file in [name for name in files if not re.match(r"\.|README", name)][:1]:
            url = hf_hub_url(name, file, repo_type=kind)
            get_hf_file_metadata(url, timeout=_HUB_S)
    # the client has dozens of error types; all mean that the name cannot be had
    except Exception as error:
        raise DataError(f"{place}: {hub_fault(kind, name, error)}") from None
    if kind == "model":
        refuse_unusable(name, info)
        # what cannot be computed is refused by it; without it the stage says what is wrong
        with suppress(Exception):
            hf_hub_download(name, "config.json", etag_timeout=_HUB_S)


def _cached(kind: Kind, name: str) -> bool:
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "dataset":
        # two libraries keep data sets, each in its own way
        home = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
        hub = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
        return (home / name.replace("/", "___")).is_dir() or hub.is_dir()
    file = try_to_load_from_cache(name, "config.json")
    try:
        return isinstance(file, str) and bool(weight_files(Path(file).parent))
    except BezoarError:  # the config was fetched alone, or an interrupted fetch left a part
        return False


def silent_endpoints(recipe: Recipe, asked: list[str]) -> Iterator[str]:
    """A sentence for each of these language models whose server accepts no connection now."""
    for name in asked:
        backend = recipe.backends[name]
        if not isinstance(backend, Endpoint):
            continue
        for url in backend.urls:
            parts = urlsplit(url)
            host, secure = parts.hostname or "", parts.scheme == "https"
            port = parts.port or (443 if secure else 80)
            # behind a proxy a server is reached in another way
            proxied = parts.scheme in urllib.request.getproxies()
            if proxied and not urllib.request.proxy_bypass(host):
                continue
            try:
                socket.create_connection((host, port), timeout=_CONNECT_S).close()
            except OSError as error:
                where, why = recipe.at("backends", name, "url"), error.strerror or str(error)
                advice = "start it, or correct the url, before its stage"
                yield f"{where}: {host}:{port} accepts no connection now ({why}); {advice}."
