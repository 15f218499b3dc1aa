"""Every fast path of training against its slow reference on this machine, forward and gradient.

Both run on a model of two layers.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bezoar.model.attention import attend, attend_dense
from bezoar.model.fast_paths import ALL_WEIGHTS, FLEX, note
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.train import doctor_paths as paths
from bezoar.train.doctor_paths import Result

ALL = "all together"
"""All fast paths at once; recorded only if no single check failed."""
Compute = Callable[[], Result]
"""One path, fast or slow."""
Comparison = tuple[str, str, float, Compute, Compute]
"""A fast path's name, what it is compared with, the error allowed, and both."""


@dataclass(frozen=True)
class Check:
    """One fast path: its largest errors, relative to the largest value, and what is allowed."""

    name: str
    against: str
    forward: float
    gradient: float
    allowed: float
    seconds: float
    fault: str = ""  # what the fast path raised

    @property
    def passed(self) -> bool:
        """Whether both errors are within what is allowed."""
        return self.forward <= self.allowed and self.gradient <= self.allowed


def examine(device: str | None = None) -> list[Check]:
    """Run all checks on the device, some seconds; later runs on this machine do not use the paths
    that fail. Default: the device on which trainings run here."""
    note([])
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), Path(name) / "model"
        paths.make_model(model)
        exact = paths.stack_with_adapter(ModelSpec(str(model), "none", "float32"), device)
        exact.save_trained(folder)
        checks = list[Check]()
        # flex attention first: the other checks on CUDA run on it, unless it failed
        if exact.device.type == "cuda":
            dense = partial(paths.attention, attend_dense, exact.device)
            fast = partial(paths.attention, paths.flex, exact.device)
            checks.append(_check(FLEX, "a dense mask", 1e-4, fast, dense))
            note([check.name for check in checks if not check.passed])
        for part in (_adapters(exact, folder), _frozen(model, device), _all(model, device)):
            checks += [_check(*each) for each in part]
    failed = [check.name for check in checks if not check.passed]
    note([name for name in failed if name != ALL] or failed)
    return checks


def _adapters(exact: Stack, folder: Path) -> Iterator[Comparison]:
    """Everything at once against independent code, then path by path to name the fault."""
    groups, device = paths.prompt_groups(), exact.device
    run = partial(paths.run, exact, groups)
    peft = partial(paths.run_plain, folder / "model", folder, groups)
    yield ALL, "transformers and peft, one sequence at a time", 1e-4, run, peft
    yield "packing", "a row for each prompt", 1e-4, run, partial(paths.run_each, exact, groups)
    yield "shared prompts", "a prompt for each answer", 1e-4, run, partial(run, share=False)
    slow_layers = partial(paths.run_slow_layers, exact, groups)
    yield "fused layers", "transformers' layers", 1e-4, run, slow_layers
    again, kept = (
        partial(paths.run_with_dropout, exact, groups, recomputed=recomputed)
        for recomputed in (True, False)
    )
    yield "recomputed activations", "kept activations", 1e-6, again, kept
    segments, dense = (partial(paths.attention, way, device) for way in (attend, attend_dense))
    yield "attention by segments", "a dense mask", 1e-4, segments, dense
    chunks, logits = (partial(paths.head, fast, device) for fast in (True, False))
    yield "chunked head", "full logits", 1e-4, chunks, logits
    fused, plain = (partial(paths.optimizer_steps, fast, device) for fast in (True, False))
    yield "fused optimizer", "one operation at a time", 1e-5, fused, plain


def _frozen(model: Path, device: str | None) -> Iterator[Comparison]:
    """Bases in fewer bits; in 4 they keep what they unpacked, and no use of them may change it."""
    groups = paths.prompt_groups()
    nf4 = paths.stack_with_adapter(ModelSpec(str(model), "nf4", "float32"), device)
    run = partial(paths.run, nf4, groups)
    after = partial(paths.run_after_evaluation, nf4, groups)
    yield "4 bits after an evaluation", "4 bits before it", 0.0, after, run
    anew = partial(paths.run_unkept, nf4, groups)
    yield "4 bits unpacked anew", "4 bits unpacked once", 0.0, anew, run
    again, kept = (
        partial(paths.run_with_dropout, nf4, groups, recomputed=recomputed)
        for recomputed in (True, False)
    )
    yield "4 bits recomputed", "4 bits with kept activations", 1e-6, again, kept
    half, exact = (
        partial(paths.run, paths.stack_with_adapter(spec, device), groups)
        for spec in (ModelSpec(str(model)), ModelSpec(str(model), dtype="float32"))
    )
    yield "bfloat16", "float32", 0.1, half, exact


def _all(model: Path, device: str | None) -> Iterator[Comparison]:
    """Training of all weights."""
    groups, stacks = paths.prompt_groups(), list[Stack]()
    for spec in (ModelSpec(str(model)), ModelSpec(str(model), dtype="float32")):
        stacks.append(Stack(spec, device=device))
        stacks[-1].add_adapter(None, seed=0)
    half, exact = (partial(paths.run, stack, groups) for stack in stacks)
    plain = partial(paths.run_plain, model, None, groups)
    yield ALL_WEIGHTS[0], "transformers, one sequence at a time", 1e-4, exact, plain
    again = partial(paths.run_with_dropout, stacks[1], groups, recomputed=True)
    # on CUDA the gradient of an embedding is summed in any order
    yield ALL_WEIGHTS[1], "kept activations", 1e-5, again, exact
    yield ALL_WEIGHTS[2], "float32", 0.1, half, exact


def _check(name: str, against: str, allowed: float, fast: Compute, slow: Compute) -> Check:
    # outside the try: if the slow path fails, there is nothing to compare with
    started = time.monotonic()
    slow_values, slow_gradients = slow()
    forward = gradient = math.inf
    fault = ""
    try:
        values, gradients = fast()
        forward = _error(values, slow_values)
        gradient = _error(_flat(gradients), _flat(slow_gradients))
    except Exception as error:  # of whatever kind: a path that cannot run is one that fails
        fault = str(error).partition("\n")[0]
    seconds = round(time.monotonic() - started, 2)
    return Check(name, against, forward, gradient, allowed, seconds, fault)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _error(values: Tensor, expected: Tensor) -> float:
    values, expected = values.detach().double().cpu(), expected.detach().double().cpu()
    error = float((values - expected).abs().max() / expected.abs().max())
    return math.inf if math.isnan(error) else error
