"""Checkpoints that are complete or absent: the weights that train, the optimiser's state, the best
weights, the progress.

The sampler's position, the schedule and the random numbers are functions of (seed, step), so the
step is all that is kept of them.
"""

import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.io import atomic_dir, read_checked, set_aside, write_checked
from bezoar.model.tensors import load_tensors, save_tensors


@dataclass
class TrainerState:
    """How far a training stage has come: `step` optimiser steps are done."""

    step: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    splits: int = 0


def save(
    folder: Path,
    state: TrainerState,
    *,
    weights: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write `folder`/step-N and remove older ones; a kill or a power cut at any moment leaves the
    old or the new."""
    with atomic_dir(folder / f"step-{state.step}") as work:
        tensors, numbers = _optimizer_state(optimizer)
        for file, each in (("weights", weights), ("best", best), ("optimizer", tensors)):
            save_tensors(work / f"{file}.safetensors", _plain(each))
        write_checked(work / "progress.json", {**asdict(state), "optimizer": numbers})
    for step, old in _steps(folder):
        if step != state.step:
            shutil.rmtree(old)


def load(
    folder: Path, optimizer: torch.optim.Optimizer
) -> tuple[TrainerState, dict[str, Tensor], dict[str, Tensor]] | None:
    """The latest progress, weights and best weights, with the optimiser's state restored; None when
    there is no checkpoint.

    A damaged one is set aside, aloud.
    """
    for _, latest in reversed(_steps(folder)):
        try:
            values = read_checked(latest / "progress.json")
            weights, best, states = (
                load_tensors(latest / f"{file}.safetensors", ours=True)
                for file in ("weights", "best", "optimizer")
            )
        except DataError as error:
            set_aside(latest, error)
            continue
        _restore(optimizer, states, values.pop("optimizer"))
        values["evaluations"] = [(int(step), float(loss)) for step, loss in values["evaluations"]]
        return TrainerState(**values), weights, best
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    named = ((re.fullmatch(r"step-(\d+)", p.name), p) for p in folder.glob("step-*"))
    return sorted((int(match[1]), path) for match, path in named if match)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def _restore(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**whole, "state": state})
