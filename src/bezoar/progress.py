"""What a running stage tells people: progress with an ETA on the console and lines in
`metrics.jsonl`."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bezoar.errors import RecipeError
from bezoar.io import atomic_write
from bezoar.terminal import one_line, plain


class Advance(Protocol):
    """Move a progress bar by `count` and, if given, replace the note behind it."""

    def __call__(self, count: float = 1, note: str = "") -> None: ...


MetricSink = Callable[[str, int, dict[str, float]], None]
"""Shows the numbers of a stage's step somewhere else: (stage, step, numbers by name)."""
METRIC_SINKS = ("tensorboard", "wandb", "trackio")


def check_metric_sinks(kinds: Sequence[str]) -> None:
    """RecipeError for a kind that is not known or whose package is not installed."""
    for kind in kinds:
        if kind not in METRIC_SINKS:
            raise RecipeError(
                f"--log {kind}: there is no such board; use one of {', '.join(METRIC_SINKS)}."
            )
        if find_spec(kind) is None:
            raise RecipeError(
                f"--log {kind}: the package {kind} is not installed; run `pip install {kind}`."
            )


@contextmanager
def open_metric_sinks(kinds: Sequence[str], folder: Path) -> Iterator[list[MetricSink]]:
    """The boards of these kinds for the run in `folder`; TensorBoard's files go into
    `folder`/tensorboard.

    RecipeError for a kind that is not known or whose package is not installed.
    """
    check_metric_sinks(kinds)
    with ExitStack() as stack:
        boards = []
        for kind in kinds:
            try:
                boards.append(
                    _tensorboard(folder, stack)
                    if kind == "tensorboard"
                    else _hosted(kind, folder, stack)
                )
            except ModuleNotFoundError as error:
                raise RecipeError(
                    f"--log {kind}: the package {error.name} is not installed; run `pip install"
                    f" {error.name}`."
                ) from None
        yield boards


def _tensorboard(folder: Path, stack: ExitStack) -> MetricSink:
    import_module("tensorboard")  # torch names it in words of its own where it is missing
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
    stack.callback(writer.close)

    def board(stage: str, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    return board


def _hosted(kind: str, folder: Path, stack: ExitStack) -> MetricSink:
    """wandb or trackio, which share an interface: one series of lines a run, so a stage's own step
    is a number beside the others."""
    run = import_module(kind).init(project="bezoar", name=folder.resolve().name)
    stack.callback(run.finish)
    return lambda stage, step, numbers: run.log({f"{stage}/step": step, **numbers})


@dataclass
class Progress:
    """The eyes on one stage. Silent without a console; without a path no metrics are written."""

    stage: str = ""
    metrics_path: Path | None = None
    console: Any = None  # rich.console.Console
    started_s: float = field(default_factory=time.time)
    boards: Sequence[MetricSink] = ()

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl: time, stage, and the values; boards are told the
        numbers of a step."""
        if "step" in values:
            numbers = {
                f"{self.stage}/{name}": v
                for name, v in values.items()
                if name != "step" and isinstance(v, (int, float))
            }
            for board in self.boards:
                board(self.stage, values["step"], numbers)
        if self.metrics_path is None:
            return
        line = {"time_s": round(time.time(), 3), "stage": self.stage, **values}
        with self.metrics_path.open("a+b") as stream:
            if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
                # the line before was torn by a power cut; this one shall stand alone
                stream.write(b"\n")
            stream.write(json.dumps(line).encode() + b"\n")

    def rewind(self, step: int) -> None:
        """Take this stage's lines after `step`, all of them at 0, out of metrics.jsonl: those steps
        are done again."""
        path = self.metrics_path
        if path is None or not path.is_file():
            return
        kept = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                value = json.loads(line)
                # an evaluation at the checkpoint's step belongs to it
                stays = value.get("stage") != self.stage or (
                    0 <= value.get("step", -1) <= step and step
                )
            except (ValueError, AttributeError, TypeError):
                stays = True  # torn by a power cut; the report counts such lines
            if stays:
                kept.append(line)
        atomic_write(path, b"".join(kept))

    def say(self, text: str) -> None:
        """Print one line above the progress bars."""
        if self.console is not None:
            self.console.print(plain(text))

    @contextmanager
    def bar(self, what: str, total: float) -> Iterator[Advance]:
        """A bar for `total` units of `what`, on a terminal alone; yields the function that moves
        it."""
        if self.console is None or not self.console.is_terminal:
            yield lambda count=1, note="": None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            "eta",
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(one_line(f"  {self.stage} {what}"), total=total, note="")

            def advance(count: float = 1, note: str = "") -> None:
                if note:
                    bars.update(task, advance=count, note=note)
                else:
                    bars.update(task, advance=count)

            yield advance
