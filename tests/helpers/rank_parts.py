"""One of several ranks that takes its part of models from their files: `rank_parts.py JOB FOLDER`,
with RANK, WORLD_SIZE and MASTER_ADDR and _PORT set. It writes down what it has and what it took."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bezoar.errors import DataError
from bezoar.model.layer import recompute
from bezoar.model.packed import pack
from bezoar.model.prompt_group import prompt_group
from bezoar.model.shard import local, whole
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.ranks import Ranks
from bezoar.train.step import states


def in_parts(spec: ModelSpec) -> Stack:
    stack = Stack(spec, mapped=True)
    stack.add_adapter(None, seed=1)
    stack.shard()
    return stack


def differing(spec: ModelSpec) -> list[str]:
    """The weights and buffers that are not those of a model loaded whole, to the bit."""
    stack, plain = in_parts(spec), Stack(spec)
    plain.add_adapter(None, seed=1)
    ours = {n: whole(p.detach()) for n, p in stack.net.named_parameters(remove_duplicate=False)}
    ours |= dict(stack.net.named_buffers())
    other = dict(plain.net.named_parameters(remove_duplicate=False))
    other |= dict(plain.net.named_buffers())
    wrong = [name for name in other if not same(ours.pop(name, None), other[name].detach())]
    same_ties = stack.net.config.tie_word_embeddings == plain.net.config.tie_word_embeddings
    return [*wrong, *ours, *([] if same_ties else ["tie_word_embeddings"])]


def same(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one, other)


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and by how many bytes the process grew meanwhile that are no pages of a
    file."""
    before, most, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return work(), most[0] - before
    finally:
        done.set()
        watcher.join()


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def step(stack: Stack) -> None:
    """A gradient as training forms it, with recomputed activations."""
    recompute(stack.net)
    groups = [prompt_group([1] * 8, [[2] * 8])]
    hidden = states(stack, pack(groups).to(stack.device))[0]
    hidden.float().sum().backward()


def main(job: dict[str, Any], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, report = Ranks.here(), dict[str, Any]()
    specs = {name: ModelSpec(**spec) for name, spec in job["same"].items()}
    report["differing"] = {name: differing(spec) for name, spec in specs.items()}
    try:
        in_parts(ModelSpec(job["broken"]))
        report["broken"] = ""
    except DataError as error:
        report["broken"] = str(error)
    # the libraries have taken what they take: from here on it is the model
    stack, report["loading"] = peak_of(lambda: in_parts(ModelSpec(**job["large"])))
    report["held"] = sum(local(p).nbytes for p in stack.net.parameters())
    report["largest"] = max(p.nbytes for p in stack.net.parameters())

    _, report["step"] = peak_of(lambda: step(stack))
    stack.trained_state()  # what the pass left whole is in parts again

    def save() -> None:
        stack.gather(folder, keep=ranks.first)
        if ranks.first:
            stack.save_trained(folder)

    _, report["saving"] = peak_of(save)
    ranks.wait()
    (folder / f"report-{ranks.rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
