"""The check of `launch`."""

from collections.abc import Callable, Mapping
from functools import partial

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.launch import Launch, OneProcess
from bezoar.stage import Stage
from bezoar.train import Training
from bezoar.train.settings import check_parts
from bezoar.train.stages import Train


def check_launch(launch: Launch, stages: Mapping[str, Stage], at: Callable[[KeyPath], str]) -> None:
    """The recipe's own has an effect, and what is to be in parts over ranks can be."""
    trainings = [stage for stage in stages.values() if isinstance(stage, Training)]
    for name, stage in stages.items():
        if not isinstance(stage, Train) or stage.adapter is not None:
            continue
        own = stage.launch or launch
        if own.processes > 1 and own.shards:
            check_parts(stage, partial(_in_stage, at, name))
    if launch != OneProcess() and not trainings:
        raise RecipeError(f"{at(('launch',))}: nothing is trained; remove the key.")
    if launch != OneProcess() and all(stage.launch for stage in trainings):
        fault = "every stage that trains has a launch of its own"
        raise RecipeError(f"{at(('launch',))}: {fault}; remove one or the other.")


def _in_stage(at: Callable[[KeyPath], str], name: str, key: str) -> str:
    return at(("stages", name, key))
