"""Two hosts that meet at a rendezvous: two torchrun agents on this machine that share a disk,
started by hand and by `launch`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from bezoar.model.tensors import load_tensors
from tests.flow.test_ranks import SFT, folder, recipe, same, trained
from tests.train.test_rank_gradients import free_port

__all__ = ["folder"]


class Host:
    """An agent, its one rank, and what they say."""

    def __init__(self, path: Path, out: Path, port: int, log: Path) -> None:
        command = ["-m", "bezoar", "run", str(path), "--out", str(out)]
        if "rendezvous" not in path.read_text():
            meet = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
            meet += ["--local-addr=127.0.0.1", f"--rdzv-endpoint=127.0.0.1:{port}"]
            command = ["-m", "torch.distributed.run", *meet, *command]
        self.log = log
        with log.open("wb") as said:
            self.agent = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                stdout=said,
                stderr=said,
            )

    @property
    def processes(self) -> dict[int, str]:
        """Those of the host: their RANK, "" of the agent."""
        found, waiting = {self.agent.pid: ""}, [self.agent.pid]
        while waiting:
            process = Path(f"/proc/{waiting.pop()}")
            with suppress(OSError):
                children = (process / "task" / process.name / "children").read_text().split()
                waiting += map(int, children)
                lines = (process / "environ").read_text().split("\0")
                ranks = [line[5:] for line in lines if line.startswith("RANK=")]
                found[int(process.name)] = "".join(ranks)
        return found

    def kill(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.agent.wait()


@contextmanager
def two_hosts(path: Path, out: Path, *, by_key: bool = False) -> Iterator[list[Host]]:
    port = free_port()
    if by_key:
        where = f"{{kind: torchrun, processes: 1, hosts: 2, rendezvous: '127.0.0.1:{port}'}}"
        path.write_text(path.read_text().replace("{kind: local}", where))
    hosts = [Host(path, out, port, path.with_name(f"{name}.log")) for name in ("one", "other")]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.kill()


@pytest.mark.real
@pytest.mark.parametrize("lost", ["0", "1"])
def test_two_hosts_train_as_one_process_and_go_on_when_one_was_lost(
    lost: str, folder: Path, tiny_model: Path
) -> None:
    def longer(name: str) -> Path:
        path = recipe(folder, tiny_model, name, f"{SFT}, checkpoint_every: 2")
        path.write_text(path.read_text().replace("epochs: 2,", "epochs: 8,"))
        return path

    path, whole = longer("hosts"), trained(longer("alone"))
    out = folder / "hosts" / "run"
    metrics = out / "metrics.jsonl"
    with two_hosts(path, out, by_key=lost == "1") as hosts:
        while not metrics.is_file() or len(metrics.read_text().splitlines()) < 4:
            assert not any(host.agent.poll() for host in hosts)
            time.sleep(0.02)
        [gone] = [host for host in hosts if lost in host.processes.values()]
        [left] = [host for host in hosts if host is not gone]
        gone.kill()
        assert left.agent.wait(60)
    told = [line for line in left.log.read_text().splitlines() if line.startswith("bezoar: ")]
    assert len(told) == 1, told
    assert "another of the 2 ranks is gone" in told[0]
    assert told[0].endswith("run the same command to go on.")
    path = longer("hosts")
    with two_hosts(path, out, by_key=lost == "0") as hosts:
        assert [host.agent.wait(300) for host in hosts] == [0, 0]
    assert json.loads((out / "02-t" / "stats.json").read_text())["processes"] == 2
    same(whole[1], [json.loads(line) for line in metrics.read_text().splitlines()], rel=1e-3)
    weights = load_tensors(out / "02-t" / "adapter" / "adapter_model.safetensors")
    for name, weight in whole[2].items():
        assert torch.allclose(weight, weights[name], atol=5e-3), name


@pytest.mark.real
def test_an_error_of_the_first_host_ends_both_at_once(folder: Path, tiny_model: Path) -> None:
    path = recipe(folder, tiny_model, "hosts", SFT)
    path.write_text(path.read_text().replace("chats.jsonl", "none.jsonl"))
    with two_hosts(path, folder / "hosts" / "run", by_key=True) as hosts:
        assert all(host.agent.wait(60) for host in hosts)
    told = "".join(host.log.read_text() for host in hosts)
    [line] = [line for line in told.splitlines() if line.startswith("bezoar: ")]
    assert "none.jsonl" in line
