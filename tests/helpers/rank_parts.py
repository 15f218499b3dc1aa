"""One of several ranks that takes its part of models from their files: `rank_parts.py JOB FOLDER`,
with RANK, WORLD_SIZE and MASTER_ADDR and _PORT set. It writes down what it has and what it took."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from bezoar.errors import DataError
from bezoar.model.layer import recompute
from bezoar.model.packed import pack
from bezoar.model.prompt_group import prompt_group
from bezoar.model.shard import local, whole
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.objectives import SFT
from bezoar.train.ranks import Ranks
from bezoar.train.step import TrainState, states


def in_parts(spec: ModelSpec, lora: LoRA | None = None, below: Sequence[Path] = ()) -> Stack:
    stack = Stack(spec, below, mapped=True)
    stack.add_adapter(lora, seed=1)
    stack.shard()
    return stack


def read(stack: Stack) -> dict[str, torch.Tensor]:
    """Log-probabilities without the top adapter and with it, and its gradient."""
    parameters = stack._trained()
    torch.manual_seed(2)
    for parameter in parameters.values():
        parameter.grad = None
        parameter.data.normal_(0, 0.1)
    added = stack.added.ids if stack.added else []
    groups = [prompt_group([5, 6, *added], [[7, 8, *added], [9, 9]])]
    state = TrainState(stack, SFT(), [])
    with torch.no_grad(), stack.disable_adapter():
        found = {"below": state.logprobs(groups)[0]}
    found["above"] = state.logprobs(groups)[0]
    found["above"].sum().backward()
    assert all(parameter.grad is not None for parameter in parameters.values())
    return {**found, **{name: parameter.grad for name, parameter in parameters.items()}}


def unlike(spec: ModelSpec, folder: Path) -> list[str]:
    """What an adapter's pass gives on a base in parts, with an adapter between, and not on a whole
    one, to the bit."""
    lora = LoRA(r=4, dropout=0.0)
    with Ranks.here().first_alone():
        if Ranks.here().first:
            lower = Stack(spec)
            lower.add_adapter(LoRA(r=2), seed=5)
            read(lower)
            lower.save_trained(folder)
    below = [folder / "adapter"]
    ours, plain = in_parts(spec, lora, below), Stack(spec, below)
    plain.add_adapter(lora, seed=1)
    assert all(isinstance(p, DTensor) for p in ours.net.parameters() if not p.requires_grad)
    found, other = read(ours), read(plain)
    recompute(ours.net)
    again = read(ours)
    assert found.keys() == again.keys() == other.keys()
    return [n for n, x in other.items() if not (same(found[n], x) and same(again[n], x))]


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
    lora = {name: ModelSpec(**spec) for name, spec in job["lora"].items()}
    report["unlike"] = {name: unlike(spec, folder / "lower" / name) for name, spec in lora.items()}
    # the libraries have taken what they take: from here on it is the model
    stack, report["loading"] = peak_of(lambda: in_parts(ModelSpec(**job["large"])))
    report["held"] = sum(local(p).nbytes for p in stack.net.parameters())
    report["largest"] = max(p.nbytes for p in stack.net.parameters())
    large = ModelSpec(**job["large"])
    base, report["base loading"] = peak_of(lambda: in_parts(large, LoRA(r=4)))
    report["base held"] = sum(local(p).nbytes for p in base.net.parameters())
    step(base)  # leaves the scratch of bfloat16's kernels
    _, report["base step"] = peak_of(lambda: step(base))

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
