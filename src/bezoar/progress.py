"""What a running stage shows: progress with an ETA on the console, numbers in `metrics.jsonl`."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from bezoar.errors import RecipeError
from bezoar.io import atomic_write
from bezoar.terminal import Console, one_line, plain


class Advance(Protocol):
    """Move a progress bar by `count` and, if given, replace the note behind it."""

    def __call__(self, count: float = 1, note: str = "") -> None: ...


MetricSink = Callable[[str, int, dict[str, float]], None]
"""Shows the numbers of a stage's step somewhere else: (stage, step, numbers by name)."""
METRIC_SINKS = ("tensorboard", "wandb", "trackio")


def check_metric_sinks(kinds: Sequence[str | MetricSink]) -> None:
    """RecipeError for a kind that is unknown or whose package is not installed."""
    for kind in (kind for kind in kinds if isinstance(kind, str)):
        if kind not in METRIC_SINKS:
            known = ", ".join(METRIC_SINKS)
            raise RecipeError(f"--log {kind}: there is no such board; use one of {known}.")
        if find_spec(kind) is None:
            raise _not_installed(kind, kind)


@contextmanager
def open_metric_sinks(
    kinds: Sequence[str | MetricSink], folder: Path
) -> Iterator[list[MetricSink]]:
    """The boards of these kinds for the run in `folder`, checked by `check_metric_sinks`."""
    # before any is opened: a hosted board would keep an empty run
    check_metric_sinks(kinds)
    with ExitStack() as stack:
        sinks = [kind for kind in kinds if not isinstance(kind, str)]
        for kind in (kind for kind in kinds if isinstance(kind, str)):
            try:
                is_local = kind == "tensorboard"
                sink = _tensorboard(folder, stack) if is_local else _hosted(kind, folder, stack)
            except ModuleNotFoundError as error:
                raise _not_installed(kind, error.name) from None
            sinks.append(sink)
        yield sinks


def _not_installed(kind: str, package: str | None) -> RecipeError:
    fix = f"run `pip install {package}`"
    return RecipeError(f"--log {kind}: the package {package} is not installed; {fix}.")


def _tensorboard(folder: Path, stack: ExitStack) -> MetricSink:
    import_module("tensorboard")  # torch's own error would name nothing to install
    writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
    stack.callback(writer.close)

    def sink(stage: str, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return sink


def _hosted(kind: str, folder: Path, stack: ExitStack) -> MetricSink:
    """wandb or trackio: one series of lines a run, so a stage's own step is a number too."""
    run = import_module(kind).init(project="bezoar", name=folder.resolve().name)
    stack.callback(run.finish)
    return lambda stage, step, numbers: run.log({f"{stage}/step": step, **numbers})


SECONDS_BETWEEN_LINES = 30.0
"""The least time between two lines about one piece of work where there is no terminal."""


@dataclass
class Progress:
    """The eyes on one stage. Silent without a console; without a path no metrics are written."""

    stage: str = ""
    metrics_path: Path | None = None
    console: Console | None = None
    started_s: float = field(default_factory=time.time)
    boards: Sequence[MetricSink] = ()

    def log(self, **values: Any) -> None:
        """Append time, stage and values to metrics.jsonl; boards get the numbers of a step."""
        self.show(values)
        if self.metrics_path is None:
            return
        line = {"time_s": round(time.time(), 3), "stage": self.stage, **values}
        with self.metrics_path.open("a+b") as stream:
            # a line that a power cut tore is ended here, so that it takes no other with it
            if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
                stream.write(b"\n")
            stream.write(json.dumps(line).encode() + b"\n")

    def show(self, values: Mapping[str, Any]) -> None:
        """Give the boards the numbers of a step."""
        if "step" not in values:
            return
        numbers = {
            f"{self.stage}/{name}": value
            for name, value in values.items()
            if name not in ("step", "time_s") and isinstance(value, (int, float))
        }
        for board in self.boards:
            board(self.stage, values["step"], numbers)

    def rewind(self, step: int) -> None:
        """Remove this stage's lines after `step` from metrics.jsonl (all at 0): they come again."""
        path = self.metrics_path
        if path is None or not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        atomic_write(path, b"".join(line for line in lines if not self._is_after(line, step)))

    def _is_after(self, line: bytes, step: int) -> bool:
        try:
            value = json.loads(line)
            # an evaluation at the checkpoint's step belongs to it
            is_before = step > 0 and 0 <= value.get("step", -1) <= step
            return value.get("stage") == self.stage and not is_before
        except (ValueError, AttributeError, TypeError):
            return False  # torn by a power cut; the report counts such lines

    def say(self, text: str) -> None:
        """Print one line above the progress bars."""
        if self.console is not None:
            self.console.print(plain(text))

    @contextmanager
    def bar(self, what: str, total: float) -> Iterator[Advance]:
        """A bar for `total` units of `what`; yields what moves it. In a file, where a bar would be
        a line for every step, it is a line now and then."""
        if self.console is None or not self.console.is_terminal:
            yield self._lines(what, total)
            return
        name = TextColumn("{task.description}", markup=False)
        note_column = TextColumn("{task.fields[note]}", markup=False)
        counts = (BarColumn(20), MofNCompleteColumn())
        times = (TimeElapsedColumn(), "eta", TimeRemainingColumn())
        columns = (name, *counts, *times, note_column)
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(one_line(f"  {self.stage} {what}"), total=total, note="")

            def advance(count: float = 1, note: str = "") -> None:
                bars.advance(task, count)
                if note:
                    bars.update(task, note=note)

            yield advance

    def _lines(self, what: str, total: float) -> Advance:
        """What says in a line how far the work is, `SECONDS_BETWEEN_LINES` after the last one."""
        started_s = told_s = time.monotonic()
        done = 0.0

        def advance(count: float = 1, note: str = "") -> None:
            nonlocal done, told_s
            done += count
            now_s = time.monotonic()
            if now_s - told_s < SECONDS_BETWEEN_LINES or done >= total:
                return
            told_s, spent_s = now_s, now_s - started_s
            left_s = spent_s * (total - done) / done if done else 0.0
            times = f"{_clock(spent_s)}, about {_clock(left_s)} left"
            self.say(f"  {self.stage} {what}: {done:g} of {total:g}, {times}{note and ', ' + note}")

        return advance


def _clock(seconds: float) -> str:
    """Minutes and seconds, such as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
