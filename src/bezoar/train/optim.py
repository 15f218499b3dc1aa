"""Optimizers by name, and what depends on the step: the learning rate and the order of the rows."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from bezoar.train.settings import Schedule

HEADS = ("score_head.", "value_head.")


def make_optimizer(
    kind: str,
    parameters: Mapping[str, nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    head_lr: float | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe; heads learn at `head_lr` if it is given.

    Vectors (norms, biases) have no weight decay.
    """
    # four groups at most, in this order: a checkpoint names the optimizer's states by number
    options: list[dict[str, Any]] = []
    for is_head, is_matrix in ((False, True), (False, False), (True, True), (True, False)):
        group = [
            parameter
            for name, parameter in parameters.items()
            if name.startswith(HEADS) == is_head and (parameter.ndim > 1) == is_matrix
        ]
        rate, decay = head_lr if is_head and head_lr else lr, weight_decay if is_matrix else 0.0
        if group:
            options.append({"params": group, "lr": rate, "weight_decay": decay})
    if kind == "rmsprop":
        return torch.optim.RMSprop(options, lr=lr)
    if kind == "adamw":
        return torch.optim.AdamW(options, lr=lr, fused=True)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit  # type: ignore[attr-defined]

    # a CPU has no memory to page to; the moments have 8 bits there too
    on_cuda = next(iter(parameters.values())).is_cuda
    small: torch.optim.Optimizer = (PagedAdamW8bit if on_cuda else AdamW8bit)(options, lr=lr)
    return small


def scale_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Set the learning rate of every group to `multiplier` times its first one."""
    # from the first rate each time, so that rounding does not add up and a resumed run is equal
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * multiplier


def lr_multiplier(schedule: Schedule, step: int, *, num_steps: int, warmup: int) -> float:
    """The factor of the learning rate at `step` (0-based): up over `warmup` steps, then to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if schedule == "constant":
        return 1.0
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


@lru_cache(maxsize=2)
def epoch_order(count: int, epoch: int, seed: int) -> tuple[int, ...]:
    """0..count-1 in the order of an epoch, which depends on its number and the seed only."""
    order = list(range(count))
    random.Random(f"epoch {epoch} {seed}").shuffle(order)
    return tuple(order)
