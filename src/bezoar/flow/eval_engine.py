"""`--engine vllm`: outside a recipe too, vLLM draws the answers of models with weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bezoar.errors import RecipeError
from bezoar.flow.model_argument import ModelArgument
from bezoar.flow.yaml_document import read_yaml
from bezoar.flow.yaml_loader import build
from bezoar.io import read_object
from bezoar.llm.engine import Engine
from bezoar.llm.servers import vllm_command
from bezoar.reading import user_path


def with_engine(subjects: Mapping[str, ModelArgument], kind: str) -> dict[str, ModelArgument]:
    """The models, those with weights to be asked by an engine; as they are if `kind` is empty.

    `kind` is vllm, or a YAML file with the keys of a recipe's `engine`. RecipeError without vLLM,
    without such a model, or for one that vLLM would compute otherwise.
    """
    if not kind:
        return dict(subjects)
    engine = _engine(kind)
    vllm_command()
    served = {name: one for name, one in subjects.items() if one.spec and not one.scores}
    if not served:
        raise RecipeError("--engine: no model here has weights that it could serve; remove it.")
    for name, one in served.items():
        assert one.spec
        odd = {
            "several adapters": len(one.adapters) > 1,
            "added tokens": one.spec.add_tokens,
            "a base in 4 bits": one.spec.quantize != "none",
        }
        for what in (what for what, there in odd.items() if there):
            raise RecipeError(f"--engine: {name} has {what}, which it cannot take; remove it.")
    # one server for a base and its adapters, which has room for the largest
    rank = max((_rank(folder) for one in served.values() for folder in one.adapters), default=0)
    return {**subjects, **{n: replace(s, engine=engine, rank=rank) for n, s in served.items()}}


def _rank(adapter: Path) -> int:
    file = adapter / "adapter_config.json"
    rank = read_object(file).get("r")
    if not isinstance(rank, int):
        raise RecipeError(f"--engine: {file} has no rank r: vLLM takes LoRA alone; remove it.")
    return rank


def _engine(kind: str) -> Engine:
    if kind == "vllm":
        return Engine()
    path = user_path(kind)
    if path.suffix not in (".yaml", ".yml"):
        fix = "write --engine vllm, or name a YAML file with the keys of `engine`"
        raise RecipeError(f"--engine {kind}: no such engine; {fix}.")
    value, lines = read_yaml(path)
    built: Engine = build(Engine, value, path=path, lines=lines)
    return built
