"""`repeats:`: what a recipe trains, and all that reads it, once more with each further seed.

Rows that read no trained model are made once: sources, schemes and filters draw, ask and pay with
the recipe's own seed alone. The paired papers say nothing on this; what repeats is our choice.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bezoar.errors import RecipeError
from bezoar.flow.references import refs, with_names
from bezoar.flow.yaml_document import KeyPath
from bezoar.references import of_seed
from bezoar.stage import Stage
from bezoar.train import Training

MOST_REPEATS = 100


class Repeat(NamedTuple):
    """A stage that stands for `stage` of the recipe, with the draws of `seed`."""

    stage: str
    seed: int


def repeated(stages: Mapping[str, Stage]) -> list[str]:
    """The stages, in their order, that train or read what was trained."""
    names: list[str] = []
    for name, stage in stages.items():
        reads = (ref.name for ref in refs(stage) if ref.kind in ("rows", "model"))
        if isinstance(stage, Training) or any(read in names for read in reads):
            names.append(name)
    return names


def check_repeats(num: int, stages: Mapping[str, Stage], at: Callable[[KeyPath], str]) -> None:
    """RecipeError for repeats of which no evaluation would measure the spread."""
    if num > 1 and not any(stages[name].gives == "scores" for name in repeated(stages)):
        advice = "add an evaluation of one, or remove the key"
        raise RecipeError(f"{at(('repeats',))}: nothing that is trained is evaluated; {advice}.")


def repeats(
    stages: Mapping[str, Stage], first_seed: int, num: int
) -> tuple[dict[str, Stage], dict[str, Repeat]]:
    """(the further stages, what each repeats), seed by seed behind the recipe's own.

    The first seed's are the stages without repeats, so that `repeats: 3` keeps what is there.
    """
    names = repeated(stages)
    added: dict[str, Stage] = {}
    of: dict[str, Repeat] = {}
    for seed in range(first_seed + 1, first_seed + num):
        own = {name: of_seed(name, seed) for name in names}
        for name in names:
            added[own[name]] = with_names(stages[name], own)
            # all seeds' models are measured with the same draws, as those are that train nothing
            is_evaluation = stages[name].gives == "scores"
            of[own[name]] = Repeat(name, first_seed if is_evaluation else seed)
    return added, of


def in_words(seeds: range, further: Mapping[str, Repeat]) -> str:
    """What is done once, and what with each seed."""
    again = dict.fromkeys(repeat.stage for repeat in further.values())
    return (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}): once with each {', '.join(again)};"
        " the other stages once."
    )
