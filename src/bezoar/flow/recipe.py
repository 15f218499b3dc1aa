"""A recipe: models, language models and stages by name, checked as a whole before anything runs."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bezoar.chat.templates import ChatML, HubTemplate, OpenBezoarTemplate
from bezoar.data import SOURCES
from bezoar.errors import RecipeError, brief
from bezoar.evals import EVALUATIONS
from bezoar.flow.references import Ref, located, refs
from bezoar.flow.yaml_document import KeyPath, read_yaml
from bezoar.flow.yaml_loader import build, place
from bezoar.judge import FILTERS
from bezoar.llm import BACKENDS
from bezoar.model.spec import ModelSpec
from bezoar.stage import Stage
from bezoar.synth import SCHEMES
from bezoar.train import TRAININGS
from bezoar.train.ppo import PPO
from bezoar.train.train import Train

Category = Literal["source", "scheme", "filter", "train", "evaluate"]
KINDS: dict[Category, dict[str, type]] = {
    "source": SOURCES,
    "scheme": SCHEMES,
    "filter": FILTERS,
    "train": TRAININGS,
    "evaluate": EVALUATIONS,
}
MOST_NAME_BYTES = 200
_RESERVED = ("journal.sqlite", "metrics.jsonl", "resolved.json", "recipe.yaml", "report.html")
Template = Annotated[ChatML | OpenBezoarTemplate | HubTemplate, Field(discriminator="kind")]


@dataclass(frozen=True)
class _Head:
    """The keys of a recipe; the three tables are read by kind afterwards."""

    name: str
    stages: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    template: Template = field(default_factory=ChatML)
    seed: int = 0
    budget_usd: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Recipe:
    """What `bezoar run` carries out.

    `stages` are in an order in which every stage follows what it reads, with their files as
    absolute paths; `written` are the same with files as the recipe names them.
    """

    path: Path
    name: str
    stages: dict[str, Stage]
    models: dict[str, ModelSpec]
    backends: dict[str, Any]
    template: Template
    seed: int
    budget_usd: float | None
    written: dict[str, Stage]

    def inputs(self, stage: str) -> list[Ref]:
        """What a stage refers to."""
        return list(refs(self.stages[stage]))

    def upstream(self, stage: str) -> list[str]:
        """The stages that a stage reads, each once."""
        return list(
            dict.fromkeys(
                ref.name
                for ref in self.inputs(stage)
                if ref.kind in ("rows", "model") and ref.name in self.stages
            )
        )


def trained(stage: Stage) -> Train | PPO:
    """The stage, which is known to give a model."""
    if not isinstance(stage, Train | PPO):
        raise TypeError(f"{stage.kind} trains nothing")
    return stage


def base_of(recipe: Recipe, name: str) -> str:
    """The name of the base model below a training stage."""
    while name not in recipe.models:
        name = trained(recipe.stages[name]).model
    return name


def category_of(kind: str) -> Category:
    """The category of a stage's kind."""
    return next(category for category, kinds in KINDS.items() if kind in kinds)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. RecipeError is one sentence with file, line and key."""
    value, lines = read_yaml(path)
    if not isinstance(value, dict):
        raise RecipeError(
            f"{path}:1: a recipe is a table of keys; start it with `name:` and `stages:`."
        )
    head: _Head = build(_Head, value, path=path, lines=lines)
    _check_names(head, path, lines)
    backends = {
        n: located(component(BACKENDS, v, path, lines, ("backends", n)), path.parent)
        for n, v in head.backends.items()
    }
    models: dict[str, ModelSpec] = {
        n: build(ModelSpec, v, path=path, lines=lines, at=("models", n))
        for n, v in head.models.items()
    }
    kinds = {kind: cls for table in KINDS.values() for kind, cls in table.items()}
    stages = {n: component(kinds, v, path, lines, ("stages", n)) for n, v in head.stages.items()}
    _check_refs(stages, models, backends, path, lines)
    written = _in_order(stages, path, lines)
    placed = {name: located(stage, path.parent) for name, stage in written.items()}
    head_keys = head.template, head.seed, head.budget_usd
    return Recipe(path, head.name, placed, models, backends, *head_keys, written)


def _check_names(head: _Head, path: Path, lines: dict[KeyPath, int]) -> None:
    """The recipe and its stages have folders of their names, beside the journal and with more
    before and behind the name."""
    name = head.name
    if (
        not name.strip()
        or "/" in name
        or name.startswith(".")
        or not name.isprintable()
        or len(name.encode()) > MOST_NAME_BYTES
    ):
        reason = (
            f"a name is a folder's name: up to {MOST_NAME_BYTES} bytes of printable characters"
            " without slashes, and no dot at its start"
        )
        raise RecipeError(f"{place(path, lines, ('name',))}: {reason}; change it.")
    if name.lower().startswith(_RESERVED):
        raise RecipeError(
            f"{place(path, lines, ('name',))}: {name} is the name of a file of ours; choose"
            " another."
        )
    if not head.stages:
        raise RecipeError(f"{place(path, lines, ('stages',))}: there are no stages; write one.")
    for name in head.stages:
        at = place(path, lines, ("stages", name))
        if name in head.models:
            raise RecipeError(f"{at}: the name of a stage is also the name of a model; rename it.")
        if (
            not name.replace("-", "").replace("_", "").isalnum()
            or len(name.encode()) > MOST_NAME_BYTES
        ):
            raise RecipeError(
                f"{at}: the name of a stage may hold letters, digits, - and _ alone,"
                f" {MOST_NAME_BYTES} bytes at most; rename it."
            )


def component(
    kinds: dict[str, type], value: Any, path: Path, lines: dict[KeyPath, int], at: KeyPath
) -> Any:
    """The table that stands in `path` at the key `at` as the component of its kind."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind)[:40], kinds, 1, 0.5)
        what = "the key kind is missing" if kind is None else brief(f"unknown kind {kind!r}", 200)
        hint = f"did you mean {near[0]}?" if near else f"the kinds are {', '.join(sorted(kinds))}."
        raise RecipeError(f"{place(path, lines, (*at, 'kind'))}: {what}; {hint}")
    return build(kinds[kind], value, path=path, lines=lines, at=at)


def _check_refs(
    stages: dict[str, Any],
    models: dict[str, ModelSpec],
    backends: dict[str, Any],
    path: Path,
    lines: dict[KeyPath, int],
) -> None:
    """Every name exists and is of the right kind, and every model and backend is used by some
    stage."""
    rows = {n for n, s in stages.items() if s.gives == "rows"}
    trained = {n for n, s in stages.items() if s.gives == "model"}
    known: dict[str, set[str]] = {
        "rows": rows,
        "model": trained | models.keys(),
        "backend": set(backends),
    }
    used: dict[str, set[str]] = {kind: set() for kind in known}
    for name, stage in stages.items():
        for ref in refs(stage):
            if ref.kind == "file":
                continue
            used[ref.kind].add(ref.name)
            if ref.name not in known[ref.kind]:
                near = difflib.get_close_matches(ref.name, known[ref.kind], 1, 0.4)
                hint = (
                    f"did you mean {near[0]}?"
                    if near
                    else f"the {ref.kind} names are {', '.join(sorted(known[ref.kind])) or 'none'}."
                )
                at = ("stages", name, *ref.path.split("."))
                raise RecipeError(
                    f"{place(path, lines, at)}: no {ref.kind} is named {ref.name!r}; {hint}"
                )
            if ref.scored and ref.name in trained and not _scores(stages[ref.name]):
                at = ("stages", name, *ref.path.split("."))
                raise RecipeError(
                    f"{place(path, lines, at)}: {ref.name} is no reward model; name a stage that"
                    " trains bradley_terry or regression."
                )
    for table, kind, names in (("models", "model", models), ("backends", "backend", backends)):
        for unused in names.keys() - used[kind]:
            raise RecipeError(
                f"{place(path, lines, (table, unused))}: no stage uses it, so it has no effect;"
                " remove it."
            )


def _scores(stage: Any) -> bool:
    """Whether a training stage gives a model with a score head."""
    return "scores" in getattr(getattr(stage, "objective", None), "needs", ())


def _in_order(stages: dict[str, Any], path: Path, lines: dict[KeyPath, int]) -> dict[str, Any]:
    """The stages as written, moved only where one stands before what it reads; RecipeError for a
    circle."""
    ordered: dict[str, Any] = {}
    waiting = dict(stages)
    while waiting:
        ready = [
            n
            for n, s in waiting.items()
            if not any(r.name in waiting for r in refs(s) if r.kind in ("rows", "model"))
        ]
        if not ready:
            name = next(iter(waiting))
            raise RecipeError(
                f"{place(path, lines, ('stages', name))}: the stages {', '.join(waiting)} read each"
                " other in a circle; break it."
            )
        ordered[ready[0]] = waiting.pop(ready[0])
    return ordered
