"""The recipe key `engine`, checked against the rest of the recipe."""

from collections.abc import Callable, Mapping

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.llm.engine import Engine
from bezoar.model.spec import ModelSpec
from bezoar.stage import Stage


def check_engine(
    engine: Engine | None,
    stages: Mapping[str, Stage],
    models: Mapping[str, ModelSpec],
    at: Callable[[KeyPath], str],
) -> None:
    """RecipeError unless it has an effect, and all models are such that vLLM computes the same."""
    if engine is None:
        return
    if not any(stage.draws for stage in stages.values()):
        fix = "add a `sample` or an evaluation, or remove the key"
        raise RecipeError(f"{at(('engine',))}: no stage asks a model of this recipe; {fix}.")
    for name, spec in models.items():
        for key, used in (("quantize", spec.quantize != "none"), ("add_tokens", spec.add_tokens)):
            if used:
                what = f"engine: vLLM would compute {name} otherwise than training does"
                fix = "write none there, or remove engine"
                raise RecipeError(f"{at(('models', name, key))}: {what}; {fix}.")
