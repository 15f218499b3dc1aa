"""One of several processes that train a stage together.

`python -m bezoar.flow.rank JOB` is one that torchrun started for the stage. Where a cluster started
`bezoar run` itself on every rank, the first carries out the recipe and the others follow it.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from bezoar.chat.templates import Template
from bezoar.errors import BezoarError, RecipeError, TrainingError, UnfinishedError, first_line
from bezoar.flow.own_process import sentence
from bezoar.flow.rundir import StoredRows
from bezoar.flow.yaml_loader import build
from bezoar.io import atomic_write, read_json
from bezoar.model.spec import ModelSpec
from bezoar.progress import Progress
from bezoar.stage import Stats
from bezoar.terminal import Console, complain
from bezoar.train import TRAININGS, Training
from bezoar.train.settings import StageInputs

if TYPE_CHECKING:
    AnyTraining = Training
else:
    AnyTraining = Annotated[reduce(or_, TRAININGS.values()), Field(discriminator="kind")]

_FAILED = "failed"
"""What those that follow are told when the first rank ends by an error, which it says itself."""
_MOURN_S = 10.0
"""How long a rank that has lost another waits to be stopped, before it says so itself."""
_MOURN_HOST_S = 2.0
"""The same of one that a cluster has started: who did may end with a lost host, and say nothing."""
_MEET = timedelta(minutes=5)
"""That ranks wait for each other when a stage begins: a host may be lost since the last one."""
_LONGEST = timedelta(days=30)
"""That a rank waits for the next stage, while the first one asks or evaluates."""
_MEETING = timedelta(minutes=10)
"""That the first rank may start behind the others."""
_ALONE = timedelta(hours=12)
"""That ranks wait for each other in a stage: the first one alone reads rows and writes models."""


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

    @property
    def fault(self) -> Path:
        """Where the first rank that fails writes why."""
        return self.work_dir / "fault.json"

    def fit(self, progress: Progress) -> Stats:
        """Train in this process, as a rank of those that have joined."""
        reward = (self.reward[0], list(self.reward[1])) if self.reward else None
        folders = self.template, self.work_dir, self.out_dir, reward
        inputs = StageInputs(self.spec, list(self.adapters), *folders)
        return self.stage.fit(StoredRows(self.rows), inputs, progress=progress, seed=self.seed)

    def save(self) -> Path:
        """Write it down for the ranks; the fault of an earlier attempt goes."""
        self.fault.unlink(missing_ok=True)
        file = self.work_dir / "job.json"
        atomic_write(file, json.dumps(asdict(self), default=str))
        return file

    @classmethod
    def load(cls, file: Path) -> "Job":
        """The inverse of `save`."""
        job: Job = build(cls, read_json(file), path=file, lines={})
        return job


def error_of(row: Mapping[str, Any]) -> BezoarError:
    """The error that a rank wrote down."""
    kind = UnfinishedError if row["exit_code"] == UnfinishedError.exit_code else TrainingError
    return kind(row["sentence"])


def work(job: Job, store: Any, progress: Progress, *, by_cluster: bool = False) -> Stats:
    """Train as the rank that the environment says, started for the job or by a cluster.

    The first error of all ranks is written down and raised, with the rank's number; a rank that
    fails behind it raises SystemExit.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # nothing is lost with this process, and what it waits for would not hear of a handler
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with _joined(store, rank, size):
            return job.fit(progress)
    except Exception as error:
        from bezoar.train.ranks import is_lost

        # who is gone knows why, or was killed: what started the ranks ends this one meanwhile
        if is_lost(error):
            if by_cluster:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(_MOURN_HOST_S if by_cluster else _MOURN_S)
        code = error.exit_code if isinstance(error, BezoarError) else 1
        row = {"sentence": f"rank {rank} of {size}: {sentence(error)}", "exit_code": code}
        own = job.work_dir / f"fault-{rank}.json"
        atomic_write(own, json.dumps(row))
        # the first of all ranks wins: others may fail of the same thing, or because of this one
        try:
            os.link(own, job.fault)
        except FileExistsError:
            raise SystemExit(code) from error
        raise error_of(row) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _joined(store: Any, rank: int, size: int) -> Iterator[None]:
    """A rank among others: on the GPU of its number, where there are GPUs."""
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        backend, number = "cpu:gloo,cuda:nccl", _own_gpu(torch.cuda.device_count())
        if number >= torch.cuda.device_count():
            fault = f"there is no GPU for it: this machine has {torch.cuda.device_count()}"
            raise RecipeError(f"{fault}; start fewer processes.")
        torch.cuda.set_device(number)
    store.set(f"here {rank}", "")
    try:
        store.wait([f"here {other}" for other in range(size)], _MEET)
    except RuntimeError as error:
        lost = f"not all {size} ranks came within {_MEET.seconds // 60} minutes"
        raise UnfinishedError(f"{lost}; run the same command on every host to go on.") from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_ALONE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _own_gpu(num: int) -> int:
    """The number of this rank among those of its machine; without one all would take the first."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    # a cluster may show each process its own GPU alone
    if num > 1 and "SLURM_LOCALID" in os.environ:
        return int(os.environ["SLURM_LOCALID"])
    if num > 1:
        fault = "LOCAL_RANK, its number among the processes of its machine, is not set"
        raise RecipeError(f"{fault}; have the cluster set it beside RANK, or start torchrun.")
    return 0


@cache
def meeting_place() -> Any:
    """The store of the ranks that were started together. RecipeError where the environment does not
    say where it is, UnfinishedError without the first rank."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=_MEETING)))
    except ValueError as error:
        raise RecipeError(f"{first_line(error)}; have the cluster set it.") from None
    except RuntimeError as error:
        what = f"rank {os.environ['RANK']} did not meet the others ({first_line(error)})"
        raise UnfinishedError(f"{what}; start all of them again.") from None
    # torchrun keeps its store when it starts all ranks again, with the addresses of those before
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


# -- ranks that a cluster has started -------------------------------------------------------------


def in_cluster() -> bool:
    """Whether this process is one of several that carry out one command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def lead(job: Job, progress: Progress) -> Stats:
    """Train with those that follow, as the first rank."""
    return work(job, _told(str(job.save())), progress, by_cluster=True)


@contextmanager
def leading() -> Iterator[None]:
    """The block is what the others follow; behind it they end, as it did."""
    if in_cluster():
        meeting_place()  # of a cluster without torchrun it is in this process
    word = _FAILED
    try:
        yield
        word = ""
    finally:
        if in_cluster():
            with suppress(UnfinishedError):  # nobody is left to be told
                _told(word)


def _told(message: str) -> Any:
    """Give those that follow the next message; the store for what it begins."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    store = meeting_place()
    try:
        number = store.add("told", 1)
        store.set(f"message {number}", message)
    except RuntimeError as error:
        lost = "the host that kept the rendezvous is gone"
        raise UnfinishedError(f"{lost}; run the same command on every host to go on.") from error
    return PrefixStore(str(number), store)


def follow() -> None:
    """Train every stage that the first rank announces, and end with it; the first returns."""
    if not in_cluster() or os.environ["RANK"] == "0":
        return
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the first rank says that we stop
    store, number = meeting_place(), 0
    while True:
        number += 1
        try:
            store.wait([f"message {number}"], _LONGEST)
            file = store.get(f"message {number}").decode()
        except RuntimeError:  # the first rank is gone, and the store with it
            file = ""
        if file in ("", _FAILED):
            raise SystemExit(int(file == _FAILED))
        job = Job.load(Path(file))
        try:
            work(job, PrefixStore(str(number), store), Progress(job.name), by_cluster=True)
        except BezoarError as error:
            complain(f"stage {job.name}: {error}")
            raise SystemExit(error.exit_code) from None


# -- a rank that torchrun has started -------------------------------------------------------------


def _end_with_parent() -> None:
    """End this process when standard input, which only the parent writes, is closed."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(1)


def main() -> None:
    """One rank of a job."""
    job = Job.load(Path(sys.argv[1]))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    first = os.environ["RANK"] == "0"
    progress = Progress(job.name, job.metrics, Console()) if first else Progress(job.name)
    work(job, meeting_place(), progress)


if __name__ == "__main__":
    main()
