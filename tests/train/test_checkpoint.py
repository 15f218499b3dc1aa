"""Checkpoints that are damaged are set aside, aloud, and training goes on from an older one or from
the start."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train import checkpoint
from bezoar.train.checkpoint import TrainerState
from bezoar.train.hardware import fresh_peak, peak_memory
from bezoar.train.optim import make_optimizer
from bezoar.train.settings import Optimizer
from tests.helpers.disk import durable, recorded, the_rename
from tests.helpers.killed import Fatal, stage


def saved(folder: Path) -> torch.optim.Optimizer:
    """An optimiser that took a step, kept as step 4."""
    weights = {"a": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.AdamW(weights.values())
    (weights["a"].sum() + weights["b"].sum()).backward()
    optimizer.step()
    checkpoint.save(
        folder,
        TrainerState(step=4, evaluations=[(2, 0.5)]),
        weights=dict(weights),
        best={},
        optimizer=optimizer,
    )
    return optimizer


def fresh() -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(2))]
    )


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(how((folder / name).read_bytes()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut weights": change("weights.safetensors", lambda d: d[:-1]),
    "a bit of the weights": change("weights.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1])),
    "empty best weights": change("best.safetensors", lambda d: b""),
    "a bit of the optimiser": change(
        "optimizer.safetensors", lambda d: d[:-3] + bytes([d[-3] ^ 64]) + d[-2:]
    ),
    "no optimiser": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "cut progress": change("progress.json", lambda d: d[: len(d) // 2]),
    "another step": change("progress.json", lambda d: d.replace(b'"step": 4', b'"step": 5')),
    "progress in a list": change("progress.json", lambda d: b"[" + d + b"]"),
    "nothing in it": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path)
    shutil.copytree(tmp_path / "step-4", tmp_path / "step-3")
    DAMAGES[name](tmp_path / "step-4")
    found = checkpoint.load(tmp_path, fresh())
    assert found is not None
    # what is in the folder of step 3 here
    assert found[0] == TrainerState(step=4, evaluations=[(2, 0.5)])
    told = capsys.readouterr().err
    assert told.startswith(f"bezoar: {tmp_path / 'step-4'}")
    assert told.endswith(f"it was set aside as {tmp_path / 'step-4.damaged'} and is made anew.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-3", "step-4.damaged"]


def test_a_whole_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    optimizer, other = saved(tmp_path), fresh()
    found = checkpoint.load(tmp_path, other)
    assert found is not None
    # decay 1e-5, then a step of 1e-3
    assert found[1]["a"].tolist() == pytest.approx([0.999 - 1e-5] * 3, abs=1e-6)
    assert all(
        torch.equal(other.state_dict()["state"][0][k], v)
        for k, v in optimizer.state_dict()["state"][0].items()
    )
    assert checkpoint.load(tmp_path / "nowhere", fresh()) is None


def test_a_checkpoint_is_on_the_disk_before_the_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "step-2").mkdir()
    with recorded(monkeypatch) as events:
        saved(tmp_path)
    placed = the_rename(events, tmp_path / "step-4")
    names = {
        "weights.safetensors",
        "best.safetensors",
        "optimizer.safetensors",
        "progress.json",
        ".",
    }
    assert events[placed][2].keys() == names
    assert not set(events[placed][2].values()) - durable(events[:placed])
    assert {"step-2", "step-4"} <= {
        name
        for what, path, states in events[placed:]
        if what == "fsync"
        for name in states[path][2]
    }
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def stepped(optimizer: torch.optim.Optimizer, times: int) -> list[torch.Tensor]:
    """The weights after so many steps on gradients that depend on the weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for _ in range(times):
        for weight in weights:
            weight.grad = weight.detach().cos()
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


@pytest.mark.parametrize("kind", [*get_args(Optimizer), "paged"])
def test_every_optimizers_state_comes_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    def make() -> torch.optim.Optimizer:
        torch.manual_seed(0)
        # moments of 8 bits from 4096 numbers on, paged ones from 100,000
        shapes = {"large": (400, 300), "small.weight": (70, 80), "norm": (9,)}
        named = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
        if kind != "paged":
            return make_optimizer(kind, named, lr=0.1, weight_decay=0.0)
        from bitsandbytes.optim import PagedAdamW8bit

        paged: torch.optim.Optimizer = PagedAdamW8bit(named.values(), lr=0.1)
        return paged

    one, other = make(), make()
    stepped(one, 2)
    weights = [weight for group in one.param_groups for weight in group["params"]]
    named = {str(number): weight for number, weight in enumerate(weights)}
    checkpoint.save(tmp_path, TrainerState(step=2), weights=named, best={}, optimizer=one)
    found = checkpoint.load(tmp_path, other)
    assert found is not None
    copies = [weight for group in other.param_groups for weight in group["params"]]
    for number, (weight, copy) in enumerate(zip(weights, copies, strict=True)):
        copy.data.copy_(found[1][str(number)])
        state, expected = other.state[copy], one.state[weight]
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert (state[name].dtype, state[name].device) == (value.dtype, value.device)
                assert torch.equal(state[name], value)
            else:
                assert state[name] == value
    assert all(map(torch.equal, stepped(one, 3), stepped(other, 3)))


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot count a peak anew"
)
def test_a_checkpoint_is_written_without_a_copy_of_it(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2**24))
    optimizer = torch.optim.AdamW([weight])
    optimizer.state[weight] = {"exp_avg": torch.ones(2**24), "step": torch.tensor(1.0)}
    fresh_peak()
    before = peak_memory()
    checkpoint.save(
        tmp_path, TrainerState(step=1), weights={"w": weight}, best={}, optimizer=optimizer
    )
    # 64 MiB each
    assert peak_memory() - before < 2**24


@pytest.mark.parametrize("lora", [LoRA(r=2), None])
def test_what_was_trained_is_on_the_disk_when_it_is_saved(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoRA | None
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(lora, seed=0, outputs=("reward",))
    with recorded(monkeypatch) as events:
        stack.save_trained(tmp_path)
    [folder] = tmp_path.iterdir()
    assert len(list(folder.iterdir())) >= 4
    written = {(file.stat().st_ino, file.stat().st_mtime_ns, ()) for file in folder.iterdir()}
    assert not written - durable(events)
    assert any(what == "fsync" and path == str(folder) for what, path, _ in events)


def test_training_with_a_damaged_checkpoint_ends_with_the_same_bytes(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 1, "max_steps": 3, "eval_every": 0}
    stage("dpo", tiny_model, tmp_path / "whole", Progress("s"), **settings)
    with pytest.raises(KeyboardInterrupt):
        stage("dpo", tiny_model, tmp_path / "cut", Fatal("s", at_step=3), **settings)
    [folder] = (tmp_path / "cut" / "work").iterdir()
    for name in ("step-2/weights.safetensors", "references.safetensors"):
        change(name, lambda data: data[:-2])(folder)
    stage("dpo", tiny_model, tmp_path / "cut", Progress("s"), **settings)
    result = Path("out") / "adapter" / "adapter_model.safetensors"
    assert (tmp_path / "cut" / result).read_bytes() == (tmp_path / "whole" / result).read_bytes()
    told = capsys.readouterr().err
    assert "step-2.damaged" in told
    assert "references.safetensors.damaged" in told
