"""The recipe keys of a training stage, and what it is given. Imports no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from bezoar.chat.templates import Template
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.references import ModelRef, RowsRef
from bezoar.train.objective import Objective
from bezoar.train.objectives import OBJECTIVES

if TYPE_CHECKING:
    AnyObjective = Objective
else:
    AnyObjective = Annotated[reduce(or_, OBJECTIVES.values()), Field(discriminator="kind")]

Optimizer = Literal["adamw", "adamw_8bit_paged", "rmsprop"]


@dataclass(frozen=True)
class StageInputs:
    """Where a training stage stands: the base and the adapters below it, the template, and its
    folders.

    `work_dir` keeps checkpoints between kills; `out_dir` receives the result; `reward` is the base
    and the adapters of a reward model, where the stage names one.
    """

    spec: ModelSpec
    adapters: list[Path]
    template: Template
    work_dir: Path
    out_dir: Path
    reward: tuple[ModelSpec, list[Path]] | None = None

    def folder(self, key: str) -> Path:
        """The work folder of exactly this work; what other work left is removed."""
        for old in self.work_dir.glob("*"):
            if old.name != key:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.work_dir / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class TrainSettings:
    """Train a new adapter on the frozen stack of `model` (or, with `adapter: null`, all weights)
    with an objective.

    `batch_size` rows make one optimiser step, cut into micro-batches of at most `tokens_per_batch`
    tokens; the cut has no effect on the gradient. A score head learns at `head_lr` (default `lr`).
    Rows longer than `max_length` tokens are dropped or cut, and counted. A share `validation` of
    the rows is held out; the result is that of the evaluation with the lowest loss on them, and
    training stops early after `patience` evaluations without a lower one (0: never). `eval_every:
    0` evaluates after each epoch. With `keep: all` the result of every evaluation stays beside it,
    in `checkpoints/step-N`. Activations are computed anew in the backward pass (`recompute`) where
    the memory that is free would not hold them. `neftune` is the size of the noise on the
    embeddings (5 in its paper).
    """

    model: ModelRef
    rows: RowsRef
    objective: AnyObjective
    adapter: LoRA | None = field(default_factory=LoRA)
    lr: float = 2e-4
    head_lr: float | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    tokens_per_batch: int = 2048
    max_length: int = 1024
    too_long: Literal["drop", "cut"] = "drop"
    optimizer: Optimizer = "adamw"
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = 0.03
    clip: float = 1.0
    weight_decay: float = 0.0
    neftune: float = 0.0
    validation: float = 0.2
    eval_every: int = 0
    patience: int = 0
    checkpoint_every: int = 20
    keep: Literal["best", "all"] = "best"
    recompute: Literal["auto", "never", "always"] = "auto"
    kind: Literal["train"] = "train"

    def __post_init__(self) -> None:
        for name in (
            "lr",
            "epochs",
            "batch_size",
            "tokens_per_batch",
            "max_length",
            "clip",
            "checkpoint_every",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0; change the value")
        if not 0 <= self.validation < 1 or not 0 <= self.warmup_ratio < 1:
            raise ValueError(
                "validation and warmup_ratio are shares from 0 to below 1; change the value"
            )
        if not self.validation and (self.eval_every or self.patience or self.keep == "all"):
            raise ValueError(
                "eval_every, patience and keep have no effect with validation 0; remove them"
            )
        if self.head_lr is not None and ("scores" not in self.objective.needs or self.head_lr <= 0):
            raise ValueError(
                "head_lr must be above 0, and has no effect with an objective without a score head;"
                " remove it"
            )
        if self.adapter is None and "baseline" in self.objective.needs:
            raise ValueError(
                f"{self.objective.kind} reads the model below at every step, which adapter: null"
                " does not keep; give an adapter"
            )
        if self.too_long == "cut" and self.objective.kind == "steerlm2":
            raise ValueError(
                "too_long: cut cannot be used with steerlm2, whose rows hold log-probabilities of"
                " whole answers; set drop"
            )
        if self.weight_decay and self.optimizer == "rmsprop":
            raise ValueError("weight_decay has no effect that is decoupled with rmsprop; remove it")
