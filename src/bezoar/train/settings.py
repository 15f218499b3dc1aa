"""The recipe keys of supervised training, and what a training stage is given. Imports no torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from bezoar.bounds import Count, Natural, NotNegative, Part, Positive
from bezoar.chat.templates import Template
from bezoar.errors import RecipeError
from bezoar.launch import OneProcess, TrainLaunch
from bezoar.llm.rollouts import EngineRollouts
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.references import ModelRef, RowsRef
from bezoar.train.objective import Objective
from bezoar.train.objectives import OBJECTIVES

if TYPE_CHECKING:
    AnyObjective = Objective
else:
    AnyObjective = Annotated[reduce(or_, OBJECTIVES.values()), Field(discriminator="kind")]

Optimizer = Literal["adamw", "adamw_8bit_paged", "rmsprop"]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class StageInputs:
    """The models and folders of a training stage. Adapters are named lowest first.

    `work_dir` keeps checkpoints between kills; `out_dir` receives the result; `reward` is the base
    and the adapters of a reward model, if the stage names one; `engine` draws the answers of a
    policy, if it is not the process that trains.
    """

    spec: ModelSpec
    adapters: list[Path]
    template: Template
    work_dir: Path
    out_dir: Path
    reward: tuple[ModelSpec, list[Path]] | None = None
    engine: EngineRollouts | None = None

    def folder(self, key: str) -> Path:
        """The work folder of the training with this key; those of others are removed."""
        for old in self.work_dir.glob("*"):
            if old.name != key:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.work_dir / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class TrainSettings:
    """The recipe keys of the stage `train`."""

    model: ModelRef
    """The model to train: its base and the adapters below the new one."""
    rows: RowsRef
    """The stage whose rows are trained."""
    objective: AnyObjective
    """What is minimised."""
    adapter: LoRA | None = field(default_factory=LoRA)
    """The new adapter; null trains all weights."""
    lr: Positive = 2e-4
    """Learning rate at the end of the warm-up."""
    head_lr: Positive | None = None
    """Learning rate of a score head; default: lr."""
    epochs: Positive = 1.0
    """Passes over the rows."""
    max_steps: Count | None = None
    """Most optimizer steps; default: as many as the epochs have."""
    batch_size: Count = 16
    """Rows of an optimizer step."""
    shuffle: bool = True
    """false: each epoch has the rows in their order: those that begin alike stay side by side."""
    tokens_per_batch: Count = 2048
    """Most tokens of a micro-batch: less memory if lower, with no effect on the gradient."""
    max_length: Count = 1024
    """Most tokens of a row."""
    too_long: Literal["drop", "cut"] = "drop"
    """What happens to longer rows: left out, or cut at max_length."""
    optimizer: Optimizer = "adamw"
    """adamw_8bit_paged: moments in 8 bits, on CUDA in paged memory; rmsprop has no weight decay."""
    schedule: Schedule = "linear"
    """How the learning rate falls to 0 after the warm-up; constant: not at all."""
    warmup_ratio: Part = 0.03
    """Share of the steps over which the learning rate rises."""
    clip: Positive = 1.0
    """Largest norm of the gradient; a longer one is scaled down."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of matrices."""
    neftune: NotNegative = 0.0
    """Size of the noise on the embeddings in training (NEFTune, arXiv 2310.05914, uses 5)."""
    validation: Part = 0.2
    """Share of the rows on which the loss is measured and not trained."""
    eval_every: Natural = 0
    """Steps between evaluations on the validation rows; 0: after each epoch."""
    patience: Natural = 0
    """Stop after so many evaluations without a lower loss; 0: never."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints; default: 20 or a minute, or 200 steps where all weights train."""
    extrapolate: Positive = 1.0
    """ExPO: the result is the start and so many times the change; above 1 beyond what trained."""
    keep: Literal["best", "all"] = "best"
    """all: the result of every evaluation too, in checkpoints/step-N."""
    recompute: Literal["auto", "never", "always"] = "auto"
    """Recompute activations in the backward pass; auto: if memory would not do for them."""
    launch: TrainLaunch | None = None
    """Where its processes run; default: where the recipe's `launch` says."""
    kind: Literal["train"] = "train"

    def __post_init__(self) -> None:
        if not self.validation and (self.eval_every or self.patience or self.keep == "all"):
            raise ValueError(
                "eval_every, patience and keep have no effect with validation 0; remove them"
            )
        if self.head_lr is not None and "scores" not in self.objective.needs:
            raise ValueError("only an objective with a score head uses head_lr; remove it")
        if self.adapter is None and "baseline" in self.objective.needs:
            raise ValueError(
                f"{self.objective.kind} reads the model below at every step, and adapter: null"
                " keeps none; give an adapter"
            )
        if self.too_long == "cut" and self.objective.kind == "steerlm2":
            raise ValueError(
                "too_long: cut cannot be used with steerlm2, whose rows hold log-probabilities of"
                " whole answers; set drop"
            )
        if self.weight_decay and self.optimizer == "rmsprop":
            raise ValueError("rmsprop has no decoupled weight decay; remove weight_decay")


def check_parts(settings: TrainSettings, base: ModelSpec, at: Callable[[str], str]) -> None:
    """RecipeError for a setting that does not know weights in parts over ranks; `at` gives the
    place of a key."""
    if settings.adapter is not None:
        if base.quantize != "none":
            fault = "a base in 4 bits is not known in parts; remove `shard: true` from launch"
            raise RecipeError(f"{at('model')}: {fault}, or `quantize` from the base.")
        return
    eight_bits = settings.optimizer == "adamw_8bit_paged"
    key = "optimizer" if eight_bits else "extrapolate" if settings.extrapolate != 1 else ""
    if key:
        fix = "change it, or set `shard: false` in launch"
        raise RecipeError(f"{at(key)}: it is not known to weights in parts; {fix}.")


def in_parts(settings: TrainSettings, base: ModelSpec, num_ranks: int) -> bool:
    """Whether each of so many ranks holds a part of the model. RecipeError for a setting that does
    not know it so."""
    launch = settings.launch or OneProcess()
    found = num_ranks > 1 and launch.shards(adapter=settings.adapter is not None)
    if found:
        check_parts(settings, base, str)
    return found


class StepCounts(NamedTuple):
    """How a training goes through its rows."""

    held_out: int
    trained: int
    per_epoch: int
    total: int
    warmup: int


def step_counts(settings: TrainSettings, num_rows: int) -> StepCounts:
    """Rows and optimizer steps of a training on so many rows, if nothing ends it earlier."""
    held_out = round(settings.validation * num_rows) if num_rows > 1 else 0
    trained = num_rows - held_out
    per_epoch = math.ceil(trained / settings.batch_size)
    total = math.ceil(settings.epochs * per_epoch)
    total = min(total, settings.max_steps or total)
    warmup = math.ceil(settings.warmup_ratio * total)
    return StepCounts(held_out, trained, per_epoch, total, warmup)


def no_step_better(stats: Mapping[str, Any]) -> str:
    """What to say where no step lowered the validation loss; else ""."""
    start, best = stats.get("start_validation_loss"), stats.get("best_validation_loss")
    if start is None or best is None or best < start:
        return ""
    losses = f"validation loss {start:.4f} before, {best:.4f} after"
    return f"no step was better than the start: {losses}; the trained weights are kept all the same"
