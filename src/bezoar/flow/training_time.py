"""How long a training stage takes here: its operations, and how many of them this device does."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

from bezoar.flow.recipe import Recipe, base_of
from bezoar.flow.rundir import RunDir
from bezoar.flow.training_plan import RowLengths, TrainingPlan
from bezoar.io import atomic_write, cache_dir, content_hash
from bezoar.model.find import local_config
from bezoar.train.memory import llama_like
from bezoar.train.stages import Train

_SHARE_OF_MATMUL = 0.5
"""Of one large matrix product; 0.50 to 0.57 was measured, see Training speed in the README."""
_START_S, _STEP_S = 3.0, 0.4
"""What a training and each of its steps take besides the products, which is most of it where the
model is tiny: measured on one CPU thread with a model of 260,000 parameters."""
_ALIKE = 3.0
"""Models whose operations a token differ by more than this factor reach other rates."""
_KEPT_S = 24 * 3600
_MOST_FILES = 1000


def needed_flops(
    recipe: Recipe, stage: Train, plan: TrainingPlan, lengths: RowLengths
) -> float | None:
    """The operations of training, evaluations and reference; None where the model is not here."""
    config = local_config(recipe.models[base_of(recipe, stage.model)].path)
    if config is None or not llama_like(config) or find_spec("torch") is None:
        return None
    from bezoar.train.hardware import step_flops

    trained = plan.tokens * lengths.trained / max(lengths.mean, 1)
    full = stage.adapter is None
    flops = step_flops(config, tokens=round(plan.tokens), trained=round(trained), full=full)
    # passes without a gradient: of the held-out rows before training and after each epoch, and of
    # all rows for a reference
    passes = plan.held_out * (1 + plan.epochs)
    if "reference" in stage.objective.needs:
        passes += plan.rows
    tokens, trained = passes * lengths.mean, passes * lengths.trained
    read = step_flops(config, tokens=round(tokens), trained=round(trained), full=False)
    return flops + read / 2


class Rate(NamedTuple):
    """How fast trainings are here, and what that was measured on."""

    flops_per_s: float
    source: str
    step_s: float = 0.0
    """What each step takes besides; 0 where the rate has it in it."""

    def seconds(self, flops: float, steps: int) -> float:
        """How long a training takes, about."""
        return _START_S + steps * self.step_s + flops / self.flops_per_s

    def __str__(self) -> str:
        steps = f" and {self.step_s:g} s a step" if self.step_s else ""
        speed = f"{self.flops_per_s / 1e9:.3g} GFLOP/s, from {self.source}"
        return f"{speed}, with {_START_S:g} s a training{steps} besides"


def measured_rate(run: RunDir, flops_per_token: float) -> Rate:
    """How fast a model with so many operations a token trains on this device.

    The median of finished trainings of models of about this size in the folder of the run; without
    them the share of a matrix product that training reaches, measured for a moment and kept for a
    day.
    """
    from bezoar.train.hardware import device_name, matmul_flops

    device = device_name()
    rates = [
        rate
        for name, size, rate in _finished(run)
        if name == device and flops_per_token / _ALIKE <= size <= flops_per_token * _ALIKE
    ]
    if rates:
        what = "finished trainings of models of about this size"
        return Rate(median(rates), f"{what} on this device ({len(rates)})")
    kept, source = cache_dir() / "rates" / f"{content_hash(device)}.json", "a matrix product"
    with suppress(OSError, ValueError, KeyError, TypeError):
        if time.time() - kept.stat().st_mtime < _KEPT_S:
            return Rate(float(json.loads(kept.read_text())["flops_per_s"]), source, _STEP_S)
    rate = _SHARE_OF_MATMUL * matmul_flops()
    with suppress(OSError):
        atomic_write(kept, json.dumps({"device": device, "flops_per_s": rate}))
    return Rate(rate, source, _STEP_S)


def _finished(run: RunDir) -> Iterator[tuple[str, float, float]]:
    """(device, operations a token, operations a second) of finished trainings."""
    for file in islice(run.path.parent.glob("*/[0-9]*-*/stats.json"), _MOST_FILES):
        # other runs are theirs to look after: a damaged file only gives no rate
        with suppress(OSError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            stats: Any = json.loads(file.read_bytes())
            flops = stats["flops"]
            yield stats["device"], flops / stats["tokens"], flops / stats["training_s"]


def duration(seconds: float) -> str:
    """About how long: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
