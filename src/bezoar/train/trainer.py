"""What supervised training and PPO share: the loop over steps, its checkpoints and its result."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bezoar.chat.types import Dropped, count_reasons
from bezoar.errors import DataError, TrainingError
from bezoar.io import write_json, write_jsonl
from bezoar.model.chat_files import save_chat_files
from bezoar.model.fast_paths import usable
from bezoar.model.layer import recompute
from bezoar.model.shard import clip_in_parts, in_parts, local
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.stage import Stats
from bezoar.train import checkpoint
from bezoar.train.checkpoint import TrainerState
from bezoar.train.hardware import out_of_memory, peak_memory
from bezoar.train.memory import available, options, predict_memory
from bezoar.train.optim import lr_multiplier, make_optimizer, scale_rates
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.ranks import Ranks
from bezoar.train.settings import StageInputs, TrainSettings

T = TypeVar("T")
_OFTEN, _SELDOM = 20, 200
"""Steps between checkpoints of an adapter, and of all weights: 16 bytes a weight, 51 GB of 3B."""
_LONGEST_S = 60.0
"""Seconds of training that an adapter's may lose, however slow its steps are."""


@dataclass
class Trainer(ABC):
    """One training stage under way. A step is a function of (weights, optimizer, seed, number)."""

    settings: TrainSettings | PolicySettings
    inputs: StageInputs
    progress: Progress
    seed: int
    parameters: dict[str, nn.Parameter]  # those that train, by the names they are saved under
    state: TrainerState = field(default_factory=TrainerState, kw_only=True)
    best: dict[str, Tensor] = field(default_factory=dict, kw_only=True)  # the best weights so far
    ranks: Ranks = field(default_factory=Ranks.here, kw_only=True)
    optimizer: torch.optim.Optimizer = field(init=False)
    num_steps: int = field(init=False)
    warmup: int = field(init=False, default=0)
    cpu_s: float = field(init=False, default=0.0)
    recomputes: bool = field(init=False, default=False)
    unit: ClassVar[str] = "step"

    @property
    @abstractmethod
    def stack(self) -> Stack:
        """The model that trains."""

    @abstractmethod
    def step(self) -> str:
        """Do one step, count and log it; returns a note for the progress bar."""

    @abstractmethod
    def key(self) -> str:
        """The hash of all that the weights depend on: a checkpoint of anything else is not used."""

    @abstractmethod
    def prepare(self) -> None:
        """What comes before the first step of a process."""

    def settings_of_weights(self) -> dict[str, Any]:
        """The settings without those that change no weight."""
        settings = asdict(self.settings)
        del settings["checkpoint_every"], settings["recompute"], settings["launch"]
        return settings

    def is_finished(self) -> bool:
        """Whether training stops before its last step."""
        return False

    @cached_property
    def folder(self) -> Path:
        """Where checkpoints are kept between kills."""
        return self.inputs.folder(self.key())

    def run(self) -> None:
        """Do every step that is not done yet."""
        started, settings = time.process_time(), self.settings
        weight_decay = settings.weight_decay if isinstance(settings, TrainSettings) else 0.0
        rates: dict[str, Any] = {"lr": settings.lr, "head_lr": getattr(settings, "head_lr", None)}
        named = settings.optimizer, self.parameters
        self.optimizer = make_optimizer(*named, **rates, weight_decay=weight_decay)
        # 1) resume before anything is computed or logged: steps after the checkpoint run again, so
        # their metrics are removed first
        with self.ranks.first_alone():
            restored = checkpoint.load(self.folder, self.optimizer, self.parameters)
        if restored:
            self.state, weights, self.best = restored
            for name, parameter in self.parameters.items():
                parameter.data.copy_(weights[name])
            at = f"{self.unit} {self.state.step} of {self.num_steps}"
            self.progress.say(f"  {self.progress.stage}: goes on from the checkpoint of {at}")
        self.ranks.check_same(self.state.step, f"the {self.unit} of the last checkpoint")
        self.progress.rewind(self.state.step)
        self.prepare()
        every = settings.checkpoint_every or (_OFTEN if settings.adapter else _SELDOM)
        is_slow = settings.adapter is not None and settings.checkpoint_every is None
        saved_at = time.monotonic()
        with self.progress.bar(f"{self.unit}s", self.num_steps) as advance:
            advance(self.state.step)
            while self.state.step < self.num_steps and not self.is_finished():
                # 2) the rate depends on the step's number only: nothing of it is in a checkpoint
                num_done = self.state.step
                multiplier = lr_multiplier(
                    settings.schedule, num_done, num_steps=self.num_steps, warmup=self.warmup
                )
                scale_rates(self.optimizer, multiplier)
                note = self.step()
                # 3) save after the step's evaluation, whose best weights belong to the checkpoint
                step = self.state.step
                is_due = is_slow and time.monotonic() - saved_at >= _LONGEST_S
                is_due = (step % every == 0 or is_due) and step < self.num_steps
                # ranks that have the same weights need one that writes
                if is_due and (self.ranks.first or in_parts(self.parameters)):
                    checkpoint.save(
                        self.folder,
                        self.state,
                        weights=self.parameters,
                        best=self.best,
                        optimizer=self.optimizer,
                        ranks=self.ranks,
                    )
                    saved_at = time.monotonic()
                advance(1, note)
        self.cpu_s = time.process_time() - started

    @property
    def budget(self) -> int:
        """The most tokens of a micro-batch: the recipe's, or fewer once memory was short."""
        return self.state.budget or self.settings.tokens_per_batch

    def with_less_memory(
        self,
        split: Callable[[int], list[list[int]]],
        compute: Callable[[list[list[int]]], T],
        sizes: Mapping[str, int],
    ) -> T:
        """`compute(split(budget))`; out of memory, again with half the budget of tokens, which is
        also that of all later steps, and at last with recomputed activations.

        `sizes` has the tokens of each row, so that an error can name the longest.
        """

        # smaller micro-batches give the same gradient, since tokens are counted over the whole step
        def shrink() -> str:
            if any(len(batch) > 1 for batch in split(self.budget)):
                self.state.budget = max(1, self.budget // 2)
            elif not self.recompute():
                longest = max(sizes, key=lambda row_id: sizes[row_id])
                row = f"{longest} of {sizes[longest]} tokens alone"
                return f"for the row {row}, which one device reads whole; lower max_length"
            return ""

        return self.again_with_less(lambda: compute(split(self.budget)), shrink)

    def again_with_less(self, attempt: Callable[[], T], shrink: Callable[[], str]) -> T:
        """`attempt()`; out of memory, again after `shrink()`; what that says is the end."""
        while True:
            try:
                return attempt()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                # ranks with parts of the weights make their passes together: one that tried again
                # would wait for ever
                least = "on one of the ranks; lower tokens_per_batch, and max_length to no more"
                if fault := least if self.stack.sharded else shrink():
                    raise TrainingError(
                        f"{self.unit} {self.state.step}: no memory {fault}."
                    ) from error
            # the failed attempt left part of a gradient, and its exception held its activations
            for parameter in self.parameters.values():
                parameter.grad = None
            self.state.splits += 1

    def save_memory(self, tokens: int, critic: Stack | None = None) -> None:
        """Recompute activations if the recipe says so, or if what is yet to be taken would not fit:
        gradients, the optimizer's state, the best weights, and micro-batches of `tokens`."""
        settings, stack = self.settings, self.stack
        memory = predict_memory(
            stack.net.config.to_dict(),
            stack.spec,
            settings.adapter,
            tokens=tokens,
            on_gpu=stack.device.type == "cuda",
            critic=(critic.net.config.to_dict(), critic.spec) if critic is not None else None,
            **options(settings),
        )
        # of a training that goes on, the optimizer's state and the best weights are there
        states = self.optimizer.state.values()
        tensors = [x for state in states for x in state.values() if isinstance(x, Tensor)]
        there = sum(local(x).nbytes for x in (*tensors, *self.best.values()))
        is_short = memory is not None and memory.ahead - there > available()[0]
        is_short = bool(self.ranks.most(is_short))
        if settings.recompute == "always" or (settings.recompute == "auto" and is_short):
            self.recompute()

    def recompute(self) -> bool:
        """Recompute activations from now on; False if they are already, may not be or cannot be."""
        path, never = "recomputed activations", self.settings.recompute == "never"
        if self.recomputes or never or not usable(path) or not recompute(self.stack.net):
            return False
        self.recomputes = True
        self.progress.say(
            f"  {self.progress.stage}: activations are recomputed in the backward pass to save"
            " memory"
        )
        return True

    def apply_gradient(self, max_norm: float, row_ids: Sequence[str]) -> float:
        """Sum the gradient over ranks, clip it and let the optimizer take a step; returns the norm
        before clipping."""
        self.ranks.add_gradients(self.parameters.values())
        clip = clip_in_parts if in_parts(self.parameters) else nn.utils.clip_grad_norm_
        norm = float(clip(self.parameters.values(), max_norm))
        if not math.isfinite(norm):  # a step with it would make every weight nan
            raise TrainingError(
                f"{self.unit} {self.state.step}: the gradient is not finite on the rows"
                f" {', '.join(row_ids)}; look at them, or lower lr."
            )
        try:
            self.optimizer.step()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            hint = "set optimizer: adamw_8bit_paged, or train an adapter"
            fault = f"no memory for the state of the optimizer; {hint}"
            raise TrainingError(f"{self.unit} {self.state.step}: {fault}.") from error
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def count(self, *, loss: float, tokens: int, trained_tokens: int, seconds: float) -> None:
        """Add a finished step to the state."""
        state, tenth = self.state, max(1, self.num_steps // 10)
        state.early_loss += loss / tenth if state.step < tenth else 0.0
        state.late_loss += loss / tenth if state.step >= self.num_steps - tenth else 0.0
        state.step += 1
        state.first_loss = loss if state.first_loss is None else state.first_loss
        state.last_loss = loss
        state.tokens += tokens
        state.trained_tokens += trained_tokens
        state.seconds += seconds

    def save(self, stack: Stack, folder: Path) -> None:
        """Write the trained weights, and what other tools need to talk to them."""
        target = stack.save_trained(folder)
        try:
            save_chat_files(stack, self.inputs.template, target)
        # the weights are good all the same; bezoar does not need these files
        except (DataError, TrainingError) as error:
            what = f"{target.name} has no chat template for other tools"
            self.progress.say(f"  {self.progress.stage}: {what}: {error}")

    def write_result(
        self, stack: Stack, num_rows: int, dropped: Sequence[Dropped], more: Mapping[str, Any]
    ) -> Stats:
        """Write the trained weights, failures.jsonl and stats.json, which takes in `more`."""
        # weights first: stats.json stands only beside a whole result
        out, state = self.inputs.out_dir, self.state
        out.mkdir(parents=True, exist_ok=True)
        self.save(stack, out)
        write_jsonl(out / "failures.jsonl", [asdict(d) for d in dropped])
        stats = {
            "rows_in": num_rows + len(dropped),
            "rows_out": num_rows,
            "dropped": count_reasons(dropped),
            "steps": state.step,
            "first_loss": state.first_loss,
            "last_loss": state.last_loss,
            **state.learning(),
            "tokens": state.tokens,
            "trained_tokens": state.trained_tokens,
            "training_s": round(state.seconds, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_memory_bytes": peak_memory(),
            "parameters_trained": sum(p.numel() for p in self.parameters.values()),
            "processes": self.ranks.size,
            **more,
        }
        write_json(out / "stats.json", stats)
        return stats
