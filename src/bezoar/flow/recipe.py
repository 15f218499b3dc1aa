"""A recipe: models, language models and stages by name, checked as a whole before anything runs."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from bezoar.chat.templates import ChatML, Template
from bezoar.data import SOURCES
from bezoar.data.source import Source
from bezoar.errors import RecipeError
from bezoar.evals import EVALUATIONS
from bezoar.evals.choose import Choose
from bezoar.flow.acceptance import check_accepted
from bezoar.flow.budget_keys import check_budgets
from bezoar.flow.engine_key import check_engine
from bezoar.flow.launch_keys import check_launch
from bezoar.flow.names import check_names
from bezoar.flow.references import Ref, located, refs
from bezoar.flow.repeats import MOST_REPEATS, Repeat, check_repeats, repeats
from bezoar.flow.yaml_document import KeyPath, read_yaml
from bezoar.flow.yaml_loader import build, place
from bezoar.judge import FILTERS
from bezoar.launch import Launch, OneProcess, Ray, TrainLaunch
from bezoar.llm import BACKENDS, OneBackend
from bezoar.llm.engine import Engine
from bezoar.model.spec import ModelSpec
from bezoar.references import CHECKPOINT, HELD_OUT
from bezoar.stage import Stage, TrainedStage
from bezoar.synth import SCHEMES
from bezoar.train import TRAININGS, Training
from bezoar.train.stages import Train

Category = Literal["source", "scheme", "filter", "train", "evaluate"]
KINDS: dict[Category, dict[str, type]] = {
    "source": SOURCES,
    "scheme": SCHEMES,
    "filter": FILTERS,
    "train": {**TRAININGS, "choose": Choose},
    "evaluate": EVALUATIONS,
}


def _by_kind(classes: Iterable[type]) -> Any:
    """The type of a table that its `kind` makes one of these classes."""
    return Annotated[reduce(or_, classes), Field(discriminator="kind")]


if TYPE_CHECKING:
    AnyStage = Stage
    AnyBackend = OneBackend
else:
    AnyStage = _by_kind(cls for table in KINDS.values() for cls in table.values())
    AnyBackend = _by_kind(BACKENDS.values())

_At = Callable[[KeyPath], str]
"""The place of a key in the recipe file, for messages."""


@dataclass(frozen=True)
class RecipeKeys:
    """The keys of a recipe file.

    Example: {name: tiny, stages: {seeds: {kind: dolly, path: "bezoar:instructions.jsonl"}}}
    """

    name: str
    """The run directory is runs/NAME: up to 200 bytes, no /, no dot at its start."""
    stages: dict[str, AnyStage]
    """Stages by name (letters, digits, -, _); a stage runs after those that it reads."""
    models: dict[str, ModelSpec] = field(default_factory=dict)
    """Base models by name."""
    backends: dict[str, AnyBackend] = field(default_factory=dict)
    """Language models that stages ask, by name."""
    template: Annotated[Template, Field(discriminator="kind")] = field(default_factory=ChatML)
    """How chats become tokens in training and evaluation."""
    seed: int = 0
    """Every draw depends on it and on row ids."""
    launch: Launch = field(default_factory=OneProcess)
    """Where stages run that do not say otherwise: torchrun those that train, ray the requests of
    the others; a part of no cache key."""
    engine: Engine | None = None
    """vLLM for the answers of this recipe's models; null draws them in this process."""
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    """Train and evaluate with so many seeds (seed, seed + 1, ...); rows are made and paid once."""
    budget_usd: Annotated[float, Field(ge=0)] | None = None
    """No request is sent that could pass it: the run stops; null is no bound; needs `prices`."""
    budgets: dict[str, Annotated[float, Field(ge=0)]] = field(default_factory=dict)
    """US dollars for stages by name, kept for them of `budget_usd`; the others share the rest."""


@dataclass(frozen=True)
class Recipe:
    """What `bezoar run` carries out.

    `stages` are in an order in which every stage follows what it reads, with their files as
    absolute paths, those of further seeds last; `written` are those of the recipe file, with files
    as it names them. `repeated` says what a stage of a further seed stands for.
    """

    path: Path
    name: str
    stages: dict[str, Stage]
    models: dict[str, ModelSpec]
    backends: dict[str, AnyBackend]
    template: Template
    seed: int
    budget_usd: float | None
    written: dict[str, Stage]
    budgets: dict[str, float] = field(default_factory=dict)
    launch: Launch = field(default_factory=OneProcess)
    engine: Engine | None = None
    repeats: int = 1
    repeated: dict[str, Repeat] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def at(self, *key: str) -> str:
        """`FILE:LINE: key.path` of a key, for messages."""
        if key[0] == "stages":
            stage = self.repeated[key[1]].stage if key[1] in self.repeated else key[1]
            key = ("stages", stage.removesuffix(HELD_OUT), *key[2:])
        return place(self.path, self.lines, key)

    def seed_of(self, stage: str) -> int:
        """The seed of a stage's draws."""
        return self.repeated[stage].seed if stage in self.repeated else self.seed

    def launch_of(self, stage: str) -> Launch:
        """Where a stage runs."""
        return getattr(self.stages[stage], "launch", None) or self.launch

    def ranks_of(self, stage: str) -> TrainLaunch:
        """Where a training stage runs."""
        launch = self.launch_of(stage)
        return OneProcess() if isinstance(launch, Ray) else launch

    @property
    def seeds(self) -> range:
        """Those that the recipe trains with, its own first."""
        return range(self.seed, self.seed + self.repeats)

    def inputs(self, stage: str) -> list[Ref]:
        """What a stage refers to."""
        return list(refs(self.stages[stage]))

    def upstream(self, stage: str) -> list[str]:
        """The stages that a stage reads, each once."""
        names = [ref.name for ref in self.inputs(stage) if ref.kind in ("rows", "model")]
        return list(dict.fromkeys(name for name in names if name in self.stages))


def trained(recipe: Recipe, name: str) -> Training:
    """The training that made a model: of a choice among checkpoints, that which made these."""
    stage = recipe.stages[name.partition(CHECKPOINT)[0]]
    if isinstance(stage, Choose):
        return trained(recipe, stage.model)
    if not isinstance(stage, Training):
        raise TypeError(f"{stage.kind} trains nothing")
    return stage


def lineage(recipe: Recipe, name: str) -> list[TrainedStage]:
    """The training stages that made a model, lowest first; none for a base model."""
    stages = []
    while name not in recipe.models:
        stage = trained(recipe, name)
        stages.append(TrainedStage(name.partition(CHECKPOINT)[0], stage.model, stage.rows))
        name = stage.model
    return stages[::-1]


def base_of(recipe: Recipe, name: str) -> str:
    """The name of the base model below a training stage."""
    stages = lineage(recipe, name)
    return stages[0].model if stages else name


def category_of(kind: str) -> Category:
    """The category of a stage's kind."""
    return next(category for category, kinds in KINDS.items() if kind in kinds)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. RecipeError is one sentence with file, line and key."""
    value, lines = read_yaml(path)
    if not isinstance(value, dict):
        advice = "start it with `name:` and `stages:`"
        raise RecipeError(f"{path}:1: a recipe is a table of keys; {advice}.")
    # 1) Each key by itself, 2) names, 3) what they refer to, 4) the order: each step relies on the
    # one before it, so the first error is the one to mend.
    keys: RecipeKeys = build(RecipeKeys, value, path=path, lines=lines)
    at: _At = partial(place, path, lines)
    check_names(keys.name, keys.stages, keys.models, at)
    keys = replace(keys, stages=_with_held_out(keys.stages))
    _check_refs(keys, at)
    folder, written = path.parent, _in_order(keys.stages, at)
    check_launch(keys.launch, written, keys.backends, keys.models, at)
    check_engine(keys.engine, written, keys.models, keys.launch, at)
    check_repeats(keys.repeats, written, at)
    check_accepted(keys.stages, at)
    check_budgets(keys.budgets, keys.budget_usd, keys.stages, keys.backends, at)
    stages = {name: located(stage, folder) for name, stage in written.items()}
    further, repeated = repeats(stages, keys.seed, keys.repeats)
    return Recipe(
        path=path,
        name=keys.name,
        stages=stages | further,
        models=keys.models,
        backends={name: located(backend, folder) for name, backend in keys.backends.items()},
        template=keys.template,
        seed=keys.seed,
        budget_usd=keys.budget_usd,
        budgets=keys.budgets,
        launch=keys.launch,
        engine=keys.engine,
        written=written,
        repeats=keys.repeats,
        repeated=repeated,
        lines=lines,
    )


def _with_held_out(stages: dict[str, Stage]) -> dict[str, Stage]:
    """The stages, and behind each source that holds rows out one that gives these."""
    parts: dict[str, Stage] = {}
    for name, stage in stages.items():
        parts[name] = stage
        if isinstance(stage, Source) and stage.held_out and not stage.take_held_out:
            # no stage can be written under this name, for it has a dot
            parts[name + HELD_OUT] = replace(stage, take_held_out=True)
    return parts


def _check_refs(keys: RecipeKeys, at: _At) -> None:
    """Every name exists and is of the right kind; every model and backend is used by a stage."""
    trained = {name for name, stage in keys.stages.items() if stage.gives == "model"}
    # 1) What a name can stand for. A base model and a training stage are both models.
    known: dict[str, set[str]] = {
        "rows": {name for name, stage in keys.stages.items() if stage.gives == "rows"},
        "model": trained | keys.models.keys(),
        "backend": set(keys.backends),
    }
    used: dict[str, set[str]] = {kind: set() for kind in known}
    # 2) Each name exists, and a model that must score has a score head.
    for name, stage in keys.stages.items():
        for ref in refs(stage):
            if ref.kind == "file":
                continue
            used[ref.kind].add(ref.name)
            where = at(("stages", name, *ref.path.split(".")))
            if ref.name not in known[ref.kind]:
                others = sorted(known[ref.kind] - {name})
                near = difflib.get_close_matches(ref.name, others, 1, 0.4)
                what = "stage with rows" if ref.kind == "rows" else ref.kind
                names = f"the {ref.kind} names are {', '.join(others) or 'none; add one'}."
                hint = f"did you mean {near[0]}?" if near else names
                source = ref.name.removesuffix(HELD_OUT)
                if source != ref.name and isinstance(keys.stages.get(source), Source):
                    hint = f"add `held_out: 0.1` to {source}."
                raise RecipeError(f"{where}: no {what} is named {ref.name!r}; {hint}")
            if ref.scored and ref.name in trained and not _scores(keys.stages[ref.name]):
                advice = "name a stage that trains bradley_terry or regression"
                raise RecipeError(f"{where}: {ref.name} is no reward model; {advice}.")
    # 3) One that nobody uses is most often a misspelt name.
    unused = [("models", name) for name in keys.models.keys() - used["model"]]
    unused += [("backends", name) for name in keys.backends.keys() - used["backend"]]
    if unused:
        raise RecipeError(f"{at(unused[0])}: no stage uses it; remove it.")


def _scores(stage: Stage) -> bool:
    """Whether a training stage gives a model with a score head."""
    return isinstance(stage, Train) and "scores" in stage.objective.needs


def _in_order(stages: dict[str, Stage], at: _At) -> dict[str, Stage]:
    """The stages as written, moved only where one stands before what it reads; RecipeError for a
    circle."""
    ordered: dict[str, Stage] = {}
    waiting = dict(stages)
    # one at a time and from the front, so that the order, and with it the folders' numbers, stays
    # as written wherever it can
    while waiting:
        ready = [
            name
            for name, stage in waiting.items()
            if not any(r.name in waiting for r in refs(stage) if r.kind in ("rows", "model"))
        ]
        if not ready:
            names = ", ".join(waiting)
            where = at(("stages", next(iter(waiting))))
            raise RecipeError(f"{where}: the stages {names} read each other in a circle; break it.")
        ordered[ready[0]] = waiting.pop(ready[0])
    return ordered
