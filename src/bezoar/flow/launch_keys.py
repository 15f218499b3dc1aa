"""The checks of `launch`: what a recipe says about where it trains can be done."""

from collections.abc import Callable, Mapping

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.launch import Launch, OneProcess
from bezoar.stage import Stage
from bezoar.train import Training
from bezoar.train.stages import Train


def check_launch(launch: Launch, stages: Mapping[str, Stage], at: Callable[[KeyPath], str]) -> None:
    """Every stage can run where it is to; a recipe without training says nothing on it."""
    trainings = {name: stage for name, stage in stages.items() if isinstance(stage, Training)}
    if launch != OneProcess() and not trainings:
        raise RecipeError(f"{at(('launch',))}: nothing is trained; remove the key.")
    for name, stage in trainings.items():
        if (stage.launch or launch).processes > 1 and not isinstance(stage, Train):
            fix = "give it `launch: {kind: local}`"
            where = at(("stages", name, "launch"))
            raise RecipeError(f"{where}: {stage.kind} trains on one process; {fix}.")
