"""Where a training stage runs: in this process, on the ranks of a cluster that it is one of, or on
ranks that torchrun starts for it."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bezoar.errors import UnfinishedError
from bezoar.flow import rank
from bezoar.flow.rank import Job
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import StoredRows
from bezoar.io import read_own
from bezoar.launch import Launch, OneProcess, Torchrun
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train import Training
from bezoar.train.settings import StageInputs

_POLL_S = 0.1
_STOP_S = 20.0
"""What ranks get to end by themselves."""


def train(
    recipe: Recipe, name: str, stage: Training, rows: Rows, inputs: StageInputs, progress: Progress
) -> Stats:
    """`stage.fit(rows, inputs)` where the stage's or the recipe's `launch` says."""
    launch, seed = recipe.ranks_of(name), recipe.seed_of(name)
    # a cluster has decided how many there are; a stage can still want to be alone
    alone = stage.launch == OneProcess() if rank.in_cluster() else launch == OneProcess()
    if alone or not isinstance(rows, StoredRows):
        return stage.fit(rows, inputs, progress=progress, seed=seed)
    reward = (inputs.reward[0], tuple(inputs.reward[1])) if inputs.reward else None
    models = inputs.spec, tuple(inputs.adapters), inputs.template
    folders = inputs.work_dir, inputs.out_dir
    job = Job(
        name,
        replace(stage, launch=launch),
        rows.path,
        *models,
        *folders,
        reward,
        seed,
        progress.metrics_path,
    )
    if rank.in_cluster():
        return rank.lead(job, progress)
    assert isinstance(launch, Torchrun)
    return on_torchrun(job, launch, progress)


def on_torchrun(job: Job, launch: Torchrun, progress: Progress) -> Stats:
    """Train on ranks that torchrun starts; what the first one says is shown.

    The error of a rank is raised here; a rank that was killed is started again with all others.
    """
    log = job.work_dir / "ranks.log"
    told = _size(job.metrics)
    with log.open("wb") as stderr:
        torchrun = _start(job, launch, stderr.fileno())
    reader = threading.Thread(target=_show, args=(torchrun, progress), daemon=True)
    reader.start()
    # a fault ends the waiting: torchrun would start all ranks again to meet the same one
    try:
        while torchrun.poll() is None and not job.fault.is_file():
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
    if job.fault.is_file():
        raise rank.error_of(read_own(job.fault, sentence=str, exit_code=int))
    if torchrun.returncode:
        times = f" (the last of {launch.restarts + 1} times)" if launch.restarts else ""
        what = f"a rank of {launch.processes} was killed{times}, most often for want of memory"
        raise UnfinishedError(f"{what} ({log} says which); run the same command to go on.")
    return read_own(job.out_dir / "stats.json")


def join_hosts(launch: Launch) -> None:
    """Where a recipe has several hosts, become the torchrun of this one: it meets the others and
    starts the same command as ranks."""
    if not isinstance(launch, Torchrun) or launch.hosts == 1 or rank.in_cluster():
        return
    arguments = [f"--nnodes={launch.hosts}", f"--nproc-per-node={launch.processes}"]
    arguments += ["--rdzv-backend=c10d", f"--rdzv-endpoint={launch.rendezvous}"]
    # agents count restarts apart, and one that starts again waits for those that have ended
    arguments += ["--max-restarts=0", "-m", "bezoar", *sys.argv[1:]]
    if launch.rendezvous.startswith(("127.", "localhost:")):
        arguments.insert(0, "--local-addr=127.0.0.1")
    os.environ.setdefault("OMP_NUM_THREADS", _threads(launch))
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *arguments])


def _threads(launch: Torchrun) -> str:
    """A core of this machine for each thread of each rank."""
    return str(max(1, (os.cpu_count() or 1) // launch.processes))


def _start(job: Job, launch: Torchrun, stderr: int) -> "subprocess.Popen[bytes]":
    arguments = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={launch.processes}"]
    arguments += [f"--max-restarts={launch.restarts}", "-m", rank.__name__, str(job.save())]
    defaults = {
        "OMP_NUM_THREADS": _threads(launch),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        # ranks end when it closes, so that they do not outlive this process
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**defaults, **os.environ},
        start_new_session=True,  # Ctrl-C is for this process, which stops them
    )


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
