"""Checkpoints, complete or absent: weights, the optimizer's state, the best weights, the counts.

The order of rows, the learning rate and random numbers are functions of (seed, step), so of these
only the step is kept.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.io import atomic_dir, read_checked, set_aside, write_checked
from bezoar.model.tensors import load_tensors, save_tensors

_PAGED = ("state1", "state2")
"""The moments of bitsandbytes, which its paged optimizers keep in memory that can leave the GPU."""


@dataclass
class TrainerState:
    """How far a training stage has come: `step` steps are done."""

    step: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    early_loss: float = 0.0  # the mean over the first tenth of the steps
    late_loss: float = 0.0  # over the last tenth
    best_loss: float | None = None
    best_step: int = 0
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    splits: int = 0  # steps done again with less memory
    budget: int = 0  # the most tokens of a micro-batch that fit, once the recipe's did not
    slots: int = 0  # the most answers drawn at once that fit, likewise

    def learning(self) -> dict[str, list[float]]:
        """What it learnt, first and last: the loss on held-out rows, else the mean training loss
        over a tenth of the steps, since single batches differ by what is in them."""
        if len(self.evaluations) > 1:
            return {"validation_losses": [self.evaluations[0][1], self.evaluations[-1][1]]}
        return {"mean_losses": [self.early_loss, self.late_loss]}


def save(
    folder: Path,
    state: TrainerState,
    *,
    weights: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write `folder`/step-N; a kill or a power cut at any moment leaves the old or the new one."""
    # safetensors holds a flat table of tensors; plain numbers of the state go into the JSON file
    values = {
        f"{index}.{name}": value
        for index, (parameter, _) in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if name not in tensors}
    # 1) the new one becomes visible in one rename, when all its files are on the disk
    with atomic_dir(folder / f"step-{state.step}") as work:
        for file, part in (("weights", weights), ("best", best), ("optimizer", tensors)):
            save_tensors(work / f"{file}.safetensors", part)
        write_checked(work / "progress.json", {**asdict(state), "optimizer": numbers})
    # 2) only then do older ones go
    for step, old in _checkpoints(folder):
        if step != state.step:
            shutil.rmtree(old)


def load(
    folder: Path, optimizer: torch.optim.Optimizer
) -> tuple[TrainerState, dict[str, Tensor], dict[str, Tensor]] | None:
    """The latest state, weights and best weights, and the optimizer's state restored; else None.

    A damaged checkpoint is set aside with a warning.
    """
    for _, latest in reversed(_checkpoints(folder)):
        try:
            values = read_checked(latest / "progress.json")
            weights, best, tensors = (
                load_tensors(latest / f"{file}.safetensors", ours=True)
                for file in ("weights", "best", "optimizer")
            )
        except DataError as error:
            set_aside(latest, error)
            continue
        # only now, with all files read, does the optimizer change
        restore(optimizer, {**tensors, **values.pop("optimizer")})
        values["evaluations"] = [(int(step), float(loss)) for step, loss in values["evaluations"]]
        return TrainerState(**values), weights, best
    return None


def restore(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> None:
    """Put the state NUMBER.NAME of each parameter where it was when it was saved, to the bit.

    An optimizer's own `load_state_dict` may cast it, copy all of it once more (bitsandbytes) and
    leave paged memory on the device.
    """
    parameters = list(_parameters(optimizer))
    for key, value in values.items():
        number, _, name = key.partition(".")
        parameter, on_device = parameters[int(number)]
        if not isinstance(value, Tensor):
            optimizer.state[parameter][name] = value
        elif name in _PAGED and getattr(optimizer, "is_paged", False):
            held = optimizer.get_state_buffer(parameter, dtype=value.dtype)  # type: ignore[attr-defined]
            if parameter.is_cuda:
                # it is set to 0 by a kernel, and written from here, which does not wait for it
                torch.cuda.synchronize(parameter.device)
            optimizer.state[parameter][name] = held.copy_(value)
        else:
            # a fused optimizer counts its steps on the device, others here
            device = parameter.device if value.ndim or on_device else torch.device("cpu")
            optimizer.state[parameter][name] = torch.empty_like(value, device=device).copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, bool]]:
    """Those of all groups in order, and whether their scalars lie on their device."""
    for group in optimizer.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        yield from ((parameter, on_device) for parameter in group["params"])


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder), by step."""
    named = ((re.fullmatch(r"step-(\d+)", p.name), p) for p in folder.glob("step-*"))
    return sorted((int(match[1]), path) for match, path in named if match)
