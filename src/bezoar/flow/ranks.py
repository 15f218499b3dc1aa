"""A training stage on several processes: as ranks that torchrun starts for it, or on those that a
cluster has started already, of which the first carries out the recipe and the others follow it.

`python -m bezoar.flow.ranks JOB` is one rank.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from bezoar.chat.templates import Template
from bezoar.errors import BezoarError, RecipeError, TrainingError, UnfinishedError
from bezoar.flow.own_process import sentence
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import StoredRows
from bezoar.flow.yaml_loader import build
from bezoar.io import atomic_write, read_json, read_own
from bezoar.launch import Torchrun
from bezoar.model.spec import ModelSpec
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.terminal import Console
from bezoar.train import TRAININGS, Training
from bezoar.train.settings import StageInputs

if TYPE_CHECKING:
    AnyTraining = Training
else:
    AnyTraining = Annotated[reduce(or_, TRAININGS.values()), Field(discriminator="kind")]

_POLL_S = 0.1
_STOP_S = 20.0
"""What ranks get to end by themselves."""
_MOURN_S = 10.0
"""How long a rank that has lost another waits to be stopped, before it says so itself."""
_DAYS = 30
_FAULT = "fault.json"


@dataclass(frozen=True)
class Job:
    """A training stage as a rank is given it: what `fit` takes, with rows as their file."""

    name: str
    stage: AnyTraining
    rows: Path
    spec: ModelSpec
    adapters: tuple[Path, ...]
    template: Annotated[Template, Field(discriminator="kind")]
    work_dir: Path
    out_dir: Path
    reward: tuple[ModelSpec, tuple[Path, ...]] | None
    seed: int
    metrics: Path | None

    def fit(self, progress: Progress) -> Stats:
        """Train in this process, as a rank of those that have joined."""
        reward = (self.reward[0], list(self.reward[1])) if self.reward else None
        folders = self.template, self.work_dir, self.out_dir, reward
        inputs = StageInputs(self.spec, list(self.adapters), *folders)
        return self.stage.fit(StoredRows(self.rows), inputs, progress=progress, seed=self.seed)

    def save(self) -> Path:
        """Write it down for the ranks; the fault of an earlier attempt goes."""
        (self.work_dir / _FAULT).unlink(missing_ok=True)
        file = self.work_dir / "job.json"
        atomic_write(file, json.dumps(asdict(self), default=str))
        return file

    @classmethod
    def load(cls, file: Path) -> "Job":
        """The inverse of `save`."""
        job: Job = build(cls, read_json(file), path=file, lines={})
        return job


def train(
    recipe: Recipe, name: str, stage: Training, rows: Rows, inputs: StageInputs, progress: Progress
) -> Stats:
    """`stage.fit(rows, inputs)` where the stage's or the recipe's `launch` says."""
    launch, seed = recipe.launch_of(name), recipe.seed_of(name)
    if not isinstance(launch, Torchrun) or not isinstance(rows, StoredRows):
        return stage.fit(rows, inputs, progress=progress, seed=seed)
    reward = (inputs.reward[0], tuple(inputs.reward[1])) if inputs.reward else None
    models = inputs.spec, tuple(inputs.adapters), inputs.template
    folders = inputs.work_dir, inputs.out_dir
    job = Job(name, stage, rows.path, *models, *folders, reward, seed, progress.metrics_path)
    return on_torchrun(job, launch, progress)


def on_torchrun(job: Job, launch: Torchrun, progress: Progress) -> Stats:
    """Train on ranks that torchrun starts; what the first one says is shown.

    The error of a rank is raised here; a rank that was killed is started again with all others.
    """
    file, log = job.save(), job.work_dir / "ranks.log"
    arguments = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={launch.processes}"]
    arguments += [f"--max-restarts={launch.restarts}", "-m", "bezoar.flow.ranks", str(file)]
    # a core of this machine for each thread of each rank
    threads = str(max(1, (os.cpu_count() or 1) // launch.processes))
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as stderr:
        torchrun = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *arguments],
            # ranks end when it closes, so that they do not outlive this process
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**defaults, **os.environ},
            start_new_session=True,  # Ctrl-C is for this process, which stops them
        )
    reader = threading.Thread(target=_show, args=(torchrun, progress), daemon=True)
    reader.start()
    told, fault = _size(job.metrics), job.work_dir / _FAULT
    # a fault ends the waiting: torchrun would start all ranks again to meet the same one
    try:
        while torchrun.poll() is None and not fault.is_file():
            time.sleep(_POLL_S)
            told = _relay(job, progress, told)
    finally:
        torchrun.terminate()
        with suppress(subprocess.TimeoutExpired):
            torchrun.wait(_STOP_S)
        torchrun.kill()
        torchrun.wait()
        assert torchrun.stdin is not None
        torchrun.stdin.close()
        reader.join(_STOP_S)
    _relay(job, progress, told)
    if fault.is_file():
        raise _error(read_own(fault, sentence=str, exit_code=int))
    if torchrun.returncode:
        times = f" {launch.restarts + 1} times" if launch.restarts else ""
        what = f"a rank of {launch.processes} was killed{times}, most often for want of memory"
        raise UnfinishedError(f"{what} ({log} says which); run the same command to go on.")
    return read_own(job.out_dir / "stats.json")


def _show(torchrun: "subprocess.Popen[bytes]", progress: Progress) -> None:
    assert torchrun.stdout is not None
    for line in torchrun.stdout:
        progress.say(line.decode(errors="replace").rstrip("\n"))


def _size(file: Path | None) -> int:
    return file.stat().st_size if file and file.is_file() else 0


def _relay(job: Job, progress: Progress, start: int) -> int:
    """Give the boards the steps that the ranks have logged since; how far they were read."""
    if not progress.boards or job.metrics is None or _size(job.metrics) <= start:
        return min(start, _size(job.metrics))
    with job.metrics.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().rpartition(b"\n")[0]
    for line in lines.splitlines():
        with suppress(ValueError):  # torn by a kill
            progress.show(json.loads(line))
    return start + len(lines) + 1 if lines else start


def _error(row: Mapping[str, Any]) -> BezoarError:
    kind = UnfinishedError if row["exit_code"] == UnfinishedError.exit_code else TrainingError
    return kind(row["sentence"])


@contextmanager
def _joined(store: Any, rank: int, size: int) -> Iterator[None]:
    """A rank among others: on the GPU of its number, where there are GPUs."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        backend, number = "cpu:gloo,cuda:nccl", int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            fault = f"there is no GPU for it: this machine has {torch.cuda.device_count()}"
            raise RecipeError(f"{fault}; start fewer processes.")
        torch.cuda.set_device(number)
    # ranks wait while the first one alone reads rows or writes a model; a death ends them at once
    wait = timedelta(hours=12)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _work(job: Job, store: Any, progress: Progress) -> Stats:
    """Train as the rank that the environment says; the first fault of all ranks is written down."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        with _joined(store, rank, size):
            return job.fit(progress)
    except BaseException as error:
        from bezoar.train.ranks import LostRankError

        # who is gone knows why, or was killed: torchrun ends this process meanwhile
        if isinstance(error, LostRankError):
            time.sleep(_MOURN_S)
        code = error.exit_code if isinstance(error, BezoarError) else 1
        row = {"sentence": f"rank {rank} of {size}: {sentence(error)}", "exit_code": code}
        # the first of all ranks wins: others may fail of the same thing, or because of this one
        partial = job.work_dir / f"fault-{rank}.json"
        atomic_write(partial, json.dumps(row))
        with suppress(FileExistsError):
            os.link(partial, job.work_dir / _FAULT)
        raise


def _store() -> Any:
    """What the ranks of this start meet at."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    # torchrun keeps its store when it starts all ranks again, with the addresses of those before
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def _end_with(parent: int) -> None:
    """End this process when standard input, which only the parent writes, is closed."""
    with suppress(OSError):
        while os.read(parent, 1):
            pass
    os._exit(1)


def main() -> None:
    """One rank of a job."""
    job = Job.load(Path(sys.argv[1]))
    threading.Thread(target=_end_with, args=(0,), daemon=True).start()
    first = os.environ["RANK"] == "0"
    progress = Progress(job.name, job.metrics, Console()) if first else Progress(job.name)
    _work(job, _store(), progress)


if __name__ == "__main__":
    main()
