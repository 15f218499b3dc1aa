"""Which recipes were rehearsed without a fault, and the advice for those that were not."""

import re
from pathlib import Path

from bezoar.flow.cache_key import all_keys
from bezoar.flow.recipe import Recipe
from bezoar.io import cache_dir, content_hash, write_json
from bezoar.llm.local import Local
from bezoar.llm.vllm import Vllm
from bezoar.model.find import local_config
from bezoar.train.layer_shapes import layer_shapes
from bezoar.train.memory import llama_like

_LARGE = 1e9
"""Parameters from which a run takes hours."""
_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


def note_rehearsed(recipe: Recipe) -> None:
    """Remember that all of the recipe as it is now was rehearsed."""
    write_json(_record(recipe), {"recipe": str(recipe.path.resolve())})


def advice(recipe: Recipe) -> list[str]:
    """A sentence if the recipe costs money or much time and was not rehearsed since it changed."""
    backends = recipe.backends.items()
    why = [f"{n} has prices" for n, b in backends if getattr(b, "prices", None)]
    paths = [spec.path for spec in recipe.models.values()]
    paths += [backend.model for _, backend in backends if isinstance(backend, Local | Vllm)]
    large = [path for path in paths if _num_parameters(path) > _LARGE]
    why += [f"{path} has more than a billion parameters" for path in large]
    if not why or _record(recipe).is_file():
        return []
    command = f"`bezoar rehearse {recipe.path}` runs every stage at toy size in minutes"
    return [f"{why[0]}, and the recipe was not rehearsed since it changed: {command}."]


def _record(recipe: Recipe) -> Path:
    # by the keys of its stages: everything that changes a row, a weight or a score
    return cache_dir() / "rehearsed" / f"{content_hash(all_keys(recipe)[0])}.json"


def _num_parameters(path: str) -> float:
    """About, by the config where it is here, else by the name; 0 is not known."""
    config = local_config(path)
    if config is not None and llama_like(config):
        layer = sum(num_in * num_out for num_in, num_out in layer_shapes(config).values())
        embeddings = config["vocab_size"] * config["hidden_size"]
        return float(config["num_hidden_layers"] * layer + embeddings)
    return max((float(size) * 1e9 for size in _IN_NAME.findall(path)), default=0.0)
