"""ExPO (arXiv 2404.16792): weights beyond the trained ones, on the line from where they began."""

import torch

from bezoar.errors import RecipeError
from bezoar.model.stack import Stack
from bezoar.train.settings import StageInputs


def check_head(stack: Stack, outputs: tuple[str, ...], stage: str) -> None:
    """RecipeError for a head that begins anew: there is no line from random numbers."""
    if outputs and (stack.score_head is None or stack.score_head.outputs != outputs):
        raise RecipeError(
            f"stage {stage}: extrapolate: the model below has no head with"
            f" {', '.join(outputs)}; train one with the same outputs first."
        )


@torch.no_grad()
def extrapolate(stack: Stack, inputs: StageInputs, factor: float) -> None:
    """Set the trained weights to start + factor (trained - start).

    `start` is the model that the stage trained from; an adapter's own change is B A, from 0.
    """
    # opened a second time: the weights that trained are not there as they were
    start = Stack(
        inputs.spec, inputs.adapters, device="cpu", mapped=stack.top is not None and stack.sharded
    )
    head = dict(start.score_head.named_parameters()) if start.score_head is not None else {}
    below = dict(start.net.named_parameters()) if stack.top is None else {}
    for name, trained in stack.trained_state().items():
        if name.startswith("score_head."):
            first = head[name.removeprefix("score_head.")]
        elif name in below:
            first = below[name]
        elif ".lora_B." in name:
            trained.mul_(factor)
            continue
        else:
            continue
        origin = first.to(trained.device, trained.dtype)
        trained.copy_(origin + factor * (trained - origin))
