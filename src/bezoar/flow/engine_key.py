"""The recipe key `engine`, checked against the rest of the recipe."""

from collections.abc import Callable, Mapping

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.launch import Launch, Torchrun
from bezoar.llm.engine import Engine
from bezoar.model.spec import ModelSpec
from bezoar.stage import Stage
from bezoar.train.policy_settings import PolicySettings


def rolls_out(stage: object) -> bool:
    """Whether the recipe's engine draws what a stage learns from."""
    return isinstance(stage, PolicySettings) and stage.rollouts == "engine"


def asks_engine(stage: Stage) -> bool:
    """Whether the recipe's engine draws for a stage."""
    return stage.draws or rolls_out(stage)


def check_engine(
    engine: Engine | None,
    stages: Mapping[str, Stage],
    models: Mapping[str, ModelSpec],
    launch: Launch,
    at: Callable[[KeyPath], str],
) -> None:
    """RecipeError unless it has an effect, is there where a stage needs it, and all models are such
    that vLLM computes the same."""
    for name, stage in stages.items():
        if not rolls_out(stage):
            continue
        fault, fix = "", "or rollouts: here"
        if engine is None:
            fault = f"the recipe has no engine; write engine: {{kind: vllm}}, {fix}"
        # of one process too: it is not this one, which has the server
        elif isinstance(getattr(stage, "launch", None) or launch, Torchrun):
            own = "write `launch: {kind: local}` in the stage"
            fault = f"an engine draws for a training in this process; {own}, {fix}"
        if fault:
            raise RecipeError(f"{at(('stages', name, 'rollouts'))}: {fault}.")
    if engine is None:
        return
    if not any(asks_engine(stage) for stage in stages.values()):
        fix = "add a `sample` or an evaluation, or remove the key"
        raise RecipeError(f"{at(('engine',))}: no stage asks a model of this recipe; {fix}.")
    for name, spec in models.items():
        for key, used in (("quantize", spec.quantize != "none"), ("add_tokens", spec.add_tokens)):
            if used:
                what = f"engine: vLLM would compute {name} otherwise than training does"
                fix = "write none there, or remove engine"
                raise RecipeError(f"{at(('models', name, key))}: {what}; {fix}.")
