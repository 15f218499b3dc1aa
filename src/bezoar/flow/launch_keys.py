"""The check of `launch`."""

from collections.abc import Callable, Mapping

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.launch import Launch, OneProcess
from bezoar.stage import Stage
from bezoar.train import Training


def check_launch(launch: Launch, stages: Mapping[str, Stage], at: Callable[[KeyPath], str]) -> None:
    """The recipe's own has an effect."""
    trainings = [stage for stage in stages.values() if isinstance(stage, Training)]
    if launch != OneProcess() and not trainings:
        raise RecipeError(f"{at(('launch',))}: nothing is trained; remove the key.")
    if launch != OneProcess() and all(stage.launch for stage in trainings):
        fault = "every stage that trains has a launch of its own"
        raise RecipeError(f"{at(('launch',))}: {fault}; remove one or the other.")
