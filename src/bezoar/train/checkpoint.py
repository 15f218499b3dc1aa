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
from bezoar.model.shard import in_parts, part_like
from bezoar.model.tensors import load_tensors, save_tensors
from bezoar.train import sharded_files
from bezoar.train.ranks import Ranks

_NONE: Mapping[str, Tensor] = {}
_FILES, _SHARDS = ("weights", "best", "optimizer"), "shards"
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
    ranks: Ranks | None = None,
) -> None:
    """Write `folder`/step-N; a kill or a power cut at any moment leaves the old or the new one.

    Of weights in parts every rank writes its own, and the first one the rest.
    """
    # safetensors holds a flat table of tensors; plain numbers of the state go into the JSON file
    values = {
        f"{index}.{name}": value
        for index, (parameter, _) in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if name not in tensors}
    progress: dict[str, Any] = {**asdict(state), "optimizer": numbers}
    target = folder / f"step-{state.step}"
    parts = {"weights": weights, "best": best, "optimizer": tensors}
    # 1) the new one becomes visible in one rename, when all its files are on the disk
    if in_parts(weights):
        assert ranks is not None
        flat = {f"{file}.{name}": t for file, part in parts.items() for name, t in part.items()}
        flat = {name: tensor.detach() for name, tensor in flat.items()}
        if not ranks.first:
            ranks.wait()
            # the folder that the first rank has made, and gives its name when all have written
            sharded_files.write(target.with_name(f".{target.name}.partial") / _SHARDS, flat)
            return
        with atomic_dir(target) as work:
            ranks.wait()  # the others write there too
            sharded_files.write(work / _SHARDS, flat)
            progress["shards"] = sharded_files.sizes(work / _SHARDS)
            write_checked(work / "progress.json", progress)
    else:
        with atomic_dir(target) as work:
            for file, part in parts.items():
                save_tensors(work / f"{file}.safetensors", part)
            write_checked(work / "progress.json", progress)
    # 2) only then do older ones go
    for step, old in _checkpoints(folder):
        if step != state.step:
            shutil.rmtree(old)


def load(
    folder: Path, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor] = _NONE
) -> tuple[TrainerState, dict[str, Tensor], dict[str, Tensor]] | None:
    """The latest state, weights and best weights, and the optimizer's state restored; else None.

    What `parameters` are in parts is read in the same parts, whatever wrote it. A damaged
    checkpoint is set aside with a warning.
    """
    numbered = [parameter for parameter, _ in _parameters(optimizer)]

    def like(name: str) -> Tensor:
        """The parameter that a tensor FILE.NAME belongs to."""
        file, _, rest = name.partition(".")
        return numbered[int(rest.partition(".")[0])] if file == "optimizer" else parameters[rest]

    def empty(name: str, shape: tuple[int, ...]) -> Tensor:
        parameter = like(name)
        # moments lie as their parameter does; the number of steps is one number on every rank
        is_same = shape == tuple(parameter.shape)
        return torch.zeros_like(parameter) if is_same else torch.zeros(shape)

    def read(latest: Path, shards: Mapping[str, int] | None) -> Iterator[dict[str, Tensor]]:
        """The tensors of each file by name."""
        found = {}
        if shards is not None:
            found = sharded_files.read(latest / _SHARDS, shards, empty)
        for file in _FILES:
            own = {n.removeprefix(f"{file}."): t for n, t in found.items() if n.startswith(file)}
            if shards is None:
                own = load_tensors(latest / f"{file}.safetensors", ours=True)
            # files of one process, read by ranks that hold parts
            if in_parts(parameters):
                own = {n: part_like(t, like(f"{file}.{n}")) for n, t in own.items()}
            yield {name: tensor.detach() for name, tensor in own.items()}

    for _, latest in reversed(_checkpoints(folder)):
        try:
            values = read_checked(latest / "progress.json")
            weights, best, tensors = read(latest, values.pop("shards", None))
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
