"""Optimisers by name, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from bezoar.errors import RecipeError

HEADS = ("score_head.", "value_head.")
Schedule = Literal["linear", "cosine", "constant"]


def optimizer(
    kind: str,
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    head_lr: float | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of a recipe; vectors (norms, biases) have no weight decay, and heads learn at
    `head_lr` where it is given."""
    parameters = list(named)
    sorts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        sorts.setdefault((name.startswith(HEADS), parameter.ndim > 1), []).append(parameter)
    groups = [
        {
            "params": group,
            "weight_decay": weight_decay if matrix else 0.0,
            "lr": head_lr if head and head_lr else lr,
        }
        for (head, matrix), group in sorted(
            sorts.items(), key=lambda pair: (pair[0][0], not pair[0][1])
        )
    ]
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if parameters[0][1].device.type != "cuda":
        raise RecipeError(
            "optimizer: adamw_8bit_paged needs a CUDA device and there is none; use adamw."
        )
    from bitsandbytes.optim import PagedAdamW8bit  # type: ignore[attr-defined]

    made: Any = PagedAdamW8bit(groups, lr=lr)  # type: ignore[no-untyped-call]
    return made  # type: ignore[no-any-return]


def scale_rates(chosen: torch.optim.Optimizer, scale: float) -> None:
    """Set the learning rate of every group to `scale` times the one it began with."""
    for group in chosen.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * scale


def lr_multiplier(schedule: Schedule, step: int, *, num_steps: int, warmup: int) -> float:
    """What the learning rate is multiplied by at `step` (0-based): a linear rise over `warmup`
    steps, then the schedule down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if schedule == "constant":
        return 1.0
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
