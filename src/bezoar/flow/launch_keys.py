"""The check of `launch`."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from bezoar.errors import RecipeError
from bezoar.flow.references import refs
from bezoar.flow.yaml_document import KeyPath
from bezoar.launch import Launch, OneProcess, Ray, Torchrun
from bezoar.llm.endpoint import Endpoint
from bezoar.model.spec import ModelSpec
from bezoar.references import CHECKPOINT
from bezoar.stage import Stage
from bezoar.train import Training
from bezoar.train.settings import check_parts
from bezoar.train.stages import Train

_At = Callable[[KeyPath], str]


def check_launch(
    launch: Launch,
    stages: Mapping[str, Stage],
    backends: Mapping[str, object],
    models: Mapping[str, ModelSpec],
    at: _At,
) -> None:
    """Every one has an effect, and what is to be in parts over ranks can be."""
    trainings = [stage for stage in stages.values() if isinstance(stage, Training)]
    for name, stage in stages.items():
        own = getattr(stage, "launch", None)
        if isinstance(own, Ray) and not any(sent_by_nodes(stage, backends)):
            what = "Ray sends requests to endpoints, one by one, and this stage asks none"
            why = "models loaded or served here are asked by this process, and batches go from here"
            raise RecipeError(f"{at(('stages', name, 'launch'))}: {what} ({why}); remove the key.")
        ranks = own or launch
        if isinstance(own, Torchrun) and own.hosts > 1:
            what = "hosts carry out the whole recipe together, and not one stage of it"
            raise RecipeError(f"{at(('stages', name, 'launch'))}: {what}; write hosts above.")
        if isinstance(stage, Training) and isinstance(ranks, Torchrun) and ranks.ranks > 1:
            _check_parts(stage, ranks, _base(stage.model, stages, models), partial(_in, at, name))
    if isinstance(launch, Ray):
        _check_ray(stages, backends, at)
    elif launch != OneProcess() and not trainings:
        raise RecipeError(f"{at(('launch',))}: nothing is trained; remove the key.")
    elif launch != OneProcess() and all(stage.launch for stage in trainings):
        fault = "every stage that trains has a launch of its own"
        raise RecipeError(f"{at(('launch',))}: {fault}; remove one or the other.")


def _check_ray(stages: Mapping[str, Stage], backends: Mapping[str, object], at: _At) -> None:
    trains = [n for n, s in stages.items() if isinstance(s, Training) and not s.launch]
    if trains:
        what = f"Ray sends requests, and {trains[0]} trains"
        fix = "write `launch: {kind: local}` or `{kind: torchrun, processes: N}` into that stage"
        raise RecipeError(f"{at(('launch',))}: {what}; {fix}.")
    asking = [stage for stage in stages.values() if any(sent_by_nodes(stage, backends))]
    if all(getattr(stage, "launch", None) for stage in asking):
        raise RecipeError(f"{at(('launch',))}: no stage sends requests by it; remove the key.")


def sent_by_nodes(stage: Stage, backends: Mapping[str, object]) -> Iterator[str]:
    """The language models of a stage whose requests can be sent by the nodes of a cluster."""
    for name in dict.fromkeys(ref.name for ref in refs(stage) if ref.kind == "backend"):
        backend = backends.get(name)
        if isinstance(backend, Endpoint) and not backend.batch:
            yield name


def where(
    launch: Launch, stage: Stage, backends: Mapping[str, object], memory_bytes: float | None
) -> str:
    """What other processes do of a stage, for the plan; "" for nothing."""
    if isinstance(launch, Torchrun) and isinstance(stage, Training) and launch.ranks > 1:
        num = launch.processes
        together = f", {num * memory_bytes / 2**30:.1f} GiB" if memory_bytes else ""
        if launch.hosts > 1:
            met = f"{launch.hosts} hosts that meet at {launch.rendezvous}"
            return f"trains on {num} processes on each of {met}{together}"
        return f"trains on {num} processes of this machine, started by torchrun{together}"
    sent = list(sent_by_nodes(stage, backends)) if isinstance(launch, Ray) else []
    if isinstance(launch, Ray) and sent:
        what = f"the nodes of the Ray cluster at {launch.address} ask {', '.join(sent)}"
        return f"{what}; journal, budget and rows stay in this process"
    return ""


def _check_parts(
    stage: Training, ranks: Torchrun, base: ModelSpec, at: Callable[[str], str]
) -> None:
    if isinstance(stage, Train):
        if ranks.shards(adapter=stage.adapter is not None):
            check_parts(stage, base, at)
    elif ranks.shard:
        what = "answers are drawn by a model that is whole on each rank"
        raise RecipeError(f"{at('kind')}: {what}; give the stage a launch without `shard: true`.")


def _base(model: str, stages: Mapping[str, Stage], models: Mapping[str, ModelSpec]) -> ModelSpec:
    """The base below a model."""
    while model not in models:
        below: Any = stages[model.partition(CHECKPOINT)[0]]
        model = below.model
    return models[model]


def _in(at: _At, name: str, key: str) -> str:
    return at(("stages", name, key))
