"""What the rows of every stage are, and whether they are what the stages behind need."""

from collections.abc import Iterator, Mapping

from bezoar.chat.row_types import ANY, RowNeed, RowType, described, type_of
from bezoar.data.source import Source
from bezoar.errors import DataError
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.references import HELD_OUT
from bezoar.stage import Outputs
from bezoar.train.stages import Train

_NUM_LOOKED_AT = 1000
MAKERS = {
    "comparisons": "best_of_n or attribute_pairs (or a source of pairs)",
    "sampled answers": "sample",
}
"""Shape of rows -> the kinds of stages that give it."""


def row_types(recipe: Recipe, run: RunDir, current: set[str]) -> dict[str, RowType]:
    """The type of each stage's rows: of those that are there, else what the stage will give.

    DataError for a source whose first rows cannot be read, or that has none.
    """
    outputs = score_outputs(recipe)
    types: dict[str, RowType] = {}
    for name, stage in recipe.stages.items():
        if stage.gives != "rows":
            continue
        if name in current:
            rows = run.stored_rows(name)
            types[name] = type_of(row for row, _ in zip(rows, range(_NUM_LOOKED_AT), strict=False))
            continue
        try:
            types[name] = stage.row_type(types, outputs)
            if isinstance(stage, Source) and stage.files() and types[name].shape is None:
                raise DataError(f"{stage.path} gives no row; name a file whose rows can be used.")
        except DataError as error:
            raise DataError(f"{recipe.at('stages', name)}: {error}") from None
    return types


def score_outputs(recipe: Recipe) -> dict[str, Outputs]:
    """The outputs of the score heads that stages train, by stage."""
    stages = recipe.stages.items()
    trained = {name: stage.objective for name, stage in stages if isinstance(stage, Train)}
    return {
        name: tuple(getattr(objective, "outputs", ()))
        for name, objective in trained.items()
        if "scores" in objective.needs
    }


def misfits(recipe: Recipe, types: Mapping[str, RowType], stale: set[str]) -> Iterator[str]:
    """A sentence for every key of the stages that are to run whose rows are of the wrong type."""
    for name in (name for name in recipe.stages if name in stale):
        stage = recipe.stages[name]
        kind = stage.objective.kind if isinstance(stage, Train) else stage.kind
        takes = stage.takes()
        for ref in recipe.inputs(name):
            need, given = takes.get(ref.path, ()), types.get(ref.name, ANY)
            if ref.kind == "rows" and need and not any(map(given.fits, need)):
                where = recipe.at("stages", name, *ref.path.split("."))
                section = ref.path.rpartition(".")[0]
                gives = f"{ref.name} gives {_without(given, need)}"
                advice = _advice(types, need, trains=stage.gives == "model")
                yield f"{where}: {gives}, and {section or kind} needs {described(need)}; {advice}."


def _without(given: RowType, need: RowNeed) -> str:
    """What is given, with what it lacks where the shape is right."""
    lacking: frozenset[str] = frozenset()
    for needed in need:
        if needed.shape == given.shape and needed.carries and not lacking:
            lacking = needed.carries - (given.carries or frozenset())
    return f"{given.shape}{given.listed(' without ', lacking)}"


def _advice(types: Mapping[str, RowType], need: RowNeed, *, trains: bool) -> str:
    # rows of an unknown type would fit, but are no help
    known = {name: given for name, given in types.items() if given.shape}
    fitting = [name for name, given in known.items() if any(map(given.fits, need))]
    # nothing is to be trained on rows that were held out to measure it
    if trains:
        fitting = [name for name in fitting if not name.endswith(HELD_OUT)]
    if fitting:
        return f"name {' or '.join(fitting[:3])}"
    makers = dict.fromkeys(MAKERS[shape] for each in need if (shape := each.shape) in MAKERS)
    by = f", such as {' or '.join(makers)}," if makers else ""
    return f"add a stage that gives them{by} and name it here"
