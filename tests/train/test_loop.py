"""The loop: kills and resumption, the best evaluation, early stop, failures that are told, splits
of a step."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat
from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.progress import Progress
from bezoar.terminal import Console
from bezoar.train import trainer
from bezoar.train.memory import options, predict_memory
from bezoar.train.objectives import SFT
from bezoar.train.optim import make_optimizer
from bezoar.train.settings import Optimizer, StageInputs
from bezoar.train.stages import Train
from bezoar.train.supervised_trainer import SupervisedTrainer
from tests.helpers.killed import Fatal, stage
from tests.helpers.rows import chats


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((folder / "out").rglob("*.safetensors"))
    }


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time_s", "tokens_per_s")} for line in lines
    ]


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("sft", 4), ("dpo", 4), ("full", 4), pytest.param("dpo", 20, marks=pytest.mark.real)],
)
def test_stopped_at_any_step_and_resumed_it_ends_the_same(
    kind: str, kills: int, tiny_model: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    stats = stage(kind, tiny_model, whole, Progress("s", whole / "metrics.jsonl"))
    parts = tmp_path / "parts"
    parts.mkdir()
    at = sorted(random.Random(kind).choices(range(1, stats["steps"] + 1), k=kills))
    for step in at:
        with pytest.raises(KeyboardInterrupt):
            stage(kind, tiny_model, parts, Fatal("s", parts / "metrics.jsonl", at_step=step))
    again = stage(kind, tiny_model, parts, Progress("s", parts / "metrics.jsonl"))
    assert digest(parts) == digest(whole)
    assert steps(parts) == steps(whole)
    assert {
        k: v for k, v in again.items() if k not in ("training_s", "cpu_s", "peak_memory_bytes")
    } == {k: v for k, v in stats.items() if k not in ("training_s", "cpu_s", "peak_memory_bytes")}


def test_every_evaluation_can_be_kept(tiny_model: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    stats = stage("sft", tiny_model, whole, Progress("s"), keep="all")
    kept = {int(p.name.removeprefix("step-")): p for p in (whole / "out" / "checkpoints").iterdir()}
    assert sorted(kept) == sorted({*range(2, stats["steps"] + 1, 2), stats["steps"]})
    best = kept[stats["best_step"]] / "adapter" / "adapter_model.safetensors"
    assert (
        best.read_bytes() == (whole / "out" / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(KeyboardInterrupt):
        stage("sft", tiny_model, parts, Fatal("s", at_step=5), keep="all")
    stage("sft", tiny_model, parts, Progress("s"), keep="all")
    assert digest(parts) == digest(whole)


@pytest.mark.parametrize("kind", ["dpo", "full"])
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_goes_on_to_the_same_bytes(
    kind: str, optimizer: str, tiny_model: Path, tmp_path: Path
) -> None:
    settings = {"optimizer": optimizer, "max_steps": 3}
    stats = stage(kind, tiny_model, tmp_path / "whole", Progress("s"), **settings)
    for step in range(1, stats["steps"] + 1):
        with pytest.raises(KeyboardInterrupt):
            stage(kind, tiny_model, tmp_path / "cut", Fatal("s", at_step=step), **settings)
    stage(kind, tiny_model, tmp_path / "cut", Progress("s"), **settings)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("dpo", "adamw"), pytest.param("full", "adamw_8bit_paged", marks=pytest.mark.real)],
)
def test_a_killed_process_loses_nothing(
    kind: str, optimizer: str, tiny_model: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    log = Progress("s", whole / "metrics.jsonl")
    stats = stage(kind, tiny_model, whole, log, optimizer=optimizer)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.helpers.killed",
            str(tiny_model),
            str(parts),
            kind,
            str(stats["steps"] - 2),
            optimizer,
        ],
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -signal.SIGKILL
    out = io.StringIO()
    again = Progress("s", parts / "metrics.jsonl", Console(file=out, width=200))
    stage(kind, tiny_model, parts, again, optimizer=optimizer)
    assert "  s: goes on from the checkpoint of step " in out.getvalue()
    assert digest(parts) == digest(whole)
    assert steps(parts) == steps(whole)


def test_the_first_loss_of_dpo_is_ln_2(tiny_model: Path, tmp_path: Path) -> None:
    stats = stage("dpo", tiny_model, tmp_path, Progress("s", tmp_path / "metrics.jsonl"))
    assert stats["first_loss"] == float(torch.tensor(2.0).log())
    assert stats["last_loss"] < stats["first_loss"]
    # before training every margin is a tie
    start = next(line for line in steps(tmp_path) if "validation_loss" in line)
    assert (start["step"], start["validation_accuracy"]) == (0, 0.5)
    assert stats["start_validation_loss"] == start["validation_loss"]
    assert "warning" not in stats


def test_that_no_step_was_better_than_the_start_is_told(tiny_model: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    progress = Progress("s", console=Console(file=said))
    stats = stage("noise", tiny_model, tmp_path, progress, lr=1.0, validation=0.5)
    start, best = stats["start_validation_loss"], stats["best_validation_loss"]
    assert start < best
    told = (
        f"no step was better than the start: validation loss {start:.4f} before, {best:.4f} after"
    )
    assert told in said.getvalue()
    assert stats["warning"].startswith(told)
    assert stats["best_step"] > 0


def test_the_result_is_that_of_the_best_evaluation(tiny_model: Path, tmp_path: Path) -> None:
    wild = {"lr": 0.01, "schedule": "constant", "warmup_ratio": 0.0, "validation": 0.5}
    stats = stage(
        "noise", tiny_model, tmp_path, Progress("s", tmp_path / "metrics.jsonl"), epochs=10, **wild
    )
    losses = {
        line["step"]: line["validation_loss"]
        for line in steps(tmp_path)
        if "validation_loss" in line and line["step"]
    }
    assert stats["best_step"] == min(losses, key=lambda s: losses[s]) < stats["steps"]
    short = stage(
        "noise",
        tiny_model,
        tmp_path / "short",
        Progress("s"),
        max_steps=stats["best_step"],
        epochs=10,
        **wild,
    )
    assert short["best_step"] == short["steps"]
    assert digest(tmp_path) == digest(tmp_path / "short")
    early = stage(
        "noise", tiny_model, tmp_path / "early", Progress("s"), epochs=100, patience=2, **wild
    )
    assert early["steps"] < 100 * 3


def test_training_moves_the_loss_down(tiny_model: Path, tmp_path: Path) -> None:
    stats = stage("sft", tiny_model, tmp_path, Progress("s"), epochs=6)
    assert stats["last_loss"] < 0.8 * stats["first_loss"]
    assert stats["rows_in"] == stats["rows_trained"] + stats["rows_validation"] == 20
    one = {
        "batch_size": 5,
        "validation": 0.0,
        "eval_every": 0,
        "epochs": 1,
        "tokens_per_batch": 10_000,
    }
    loose = stage("sft", tiny_model, tmp_path / "loose", Progress("s"), **one)
    assert loose["packing_efficiency"] == pytest.approx(loose["tokens"] / 4 / 10_000, abs=1e-4)
    assert stats["packing_efficiency"] > loose["packing_efficiency"]


def test_a_loss_that_is_not_finite_names_the_rows(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="chat-"):
        stage("full", tiny_model, tmp_path, Progress("s"), lr=1e30, clip=1e30)


@dataclass
class Crowded(SupervisedTrainer):
    """A loop on a machine whose memory holds so many rows at once, one if it is recomputed."""

    most: int = 2
    tried: list[int] = field(default_factory=list)

    def gradient_of(self, groups: list[list[int]]) -> Any:
        self.tried.append(max(map(len, groups)))
        if self.tried[-1] > max(self.most, self.recomputes):
            raise torch.OutOfMemoryError("out of memory")
        return super().gradient_of(groups)


def crowded(model: Path, folder: Path, most: int, **settings: Any) -> Crowded:
    from bezoar.model.stack import Stack
    from bezoar.train.label_check import check_labels
    from bezoar.train.step import TrainState

    stack = Stack(ModelSpec(str(model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, dropout=0.0), seed=0)
    train = Train("base", "rows", SFT(), validation=0.0, batch_size=6, epochs=3, **settings)
    items = check_labels(
        chats(6), SFT(), ChatML(), stack.tokenizer, max_length=500, too_long="drop"
    ).rows
    where = StageInputs(ModelSpec(str(model)), [], ChatML(), folder / "work", folder / "out")
    state = TrainState(stack, SFT(), items)
    return Crowded(train, where, Progress("s"), 0, named, state, most=most)


def test_out_of_memory_splits_the_step_and_the_next_begin_with_what_fitted(
    tiny_model: Path, tmp_path: Path
) -> None:
    loop = crowded(tiny_model, tmp_path, 2, checkpoint_every=2)
    loop.run()
    splits = loop.state.splits
    assert splits > 0
    assert loop.state.step == 3
    # no step after the first one tries what did not fit
    assert max(loop.tried[splits:]) == 2
    assert len(loop.tried) == splits + 3
    # nor does a process that goes on from the checkpoint, whose steps would be cut in another way
    again = crowded(tiny_model, tmp_path, 2, checkpoint_every=2)
    again.run()
    assert again.tried == [2]
    assert again.budget == loop.budget < 2048


def test_where_no_row_fits_activations_are_recomputed_and_then_it_is_told(
    tiny_model: Path, tmp_path: Path
) -> None:
    loop = crowded(tiny_model, tmp_path / "a", 0)
    loop.run()
    assert loop.recomputes
    assert loop.state.step == 3
    with pytest.raises(TrainingError, match=r"for the row chat-\d+ of \d+ tokens alone, which one"):
        crowded(tiny_model, tmp_path / "b", 0, recompute="never").run()


def test_auto_counts_what_is_yet_to_be_taken(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = crowded(tiny_model, tmp_path, 6)
    spec, lora = loop.stack.spec, loop.settings.adapter
    config, keywords = loop.stack.net.config.to_dict(), options(loop.settings)
    memory = predict_memory(config, spec, lora, tokens=100, **keywords)
    assert memory is not None
    loop.optimizer = make_optimizer("adamw", loop.parameters, lr=0.1, weight_decay=0.0)
    # before the first step: gradients and moments come on top of activations
    state = sum(8 * parameter.numel() for parameter in loop.parameters.values())
    assert memory.ahead > memory.activations + state
    for free, expected in ((memory.ahead, False), (memory.ahead - 1, True)):
        monkeypatch.setattr(trainer, "available", lambda free=free: (free, False))
        loop.save_memory(100)
        assert loop.recomputes == expected
    # of a training that goes on the moments are there, with a count of steps each
    loop = crowded(tiny_model, tmp_path / "again", 6)
    loop.optimizer = make_optimizer("adamw", loop.parameters, lr=0.1, weight_decay=0.0)
    for parameter in loop.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    loop.optimizer.step()
    state += 4 * len(loop.parameters)
    for free, expected in ((memory.ahead - state, False), (memory.ahead - state - 1, True)):
        monkeypatch.setattr(trainer, "available", lambda free=free: (free, False))
        loop.save_memory(100)
        assert loop.recomputes == expected


def test_no_memory_for_the_optimizer_is_told(tiny_model: Path, tmp_path: Path) -> None:
    @dataclass
    class Full(Crowded):
        def gradient_of(self, groups: list[list[int]]) -> Any:
            self.optimizer.register_step_pre_hook(no_memory)
            return super().gradient_of(groups)

    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    loop = crowded(tiny_model, tmp_path, 6)
    full = Full(loop.settings, loop.inputs, loop.progress, 0, loop.parameters, loop.train_state)
    full.most = 6
    with pytest.raises(TrainingError, match="step 0: no memory for the state of the optimizer"):
        full.run()


def test_checkpoints_of_all_weights_are_fewer(tiny_model: Path, tmp_path: Path) -> None:
    short = {"checkpoint_every": None, "eval_every": 0, "epochs": 6, "validation": 0.0}
    for kind, at in (("sft", {20}), ("full", set[int]())):
        with pytest.raises(KeyboardInterrupt):
            stage(kind, tiny_model, tmp_path / kind, Fatal("s", at_step=22), **short)
        assert {p.name for p in (tmp_path / kind).glob("work/*/step-*")} == {
            f"step-{n}" for n in at
        }


def test_slow_steps_of_an_adapter_are_saved_by_the_clock(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_LONGEST_S", 0.0)
    for every, at in ((None, {"step-2"}), (20, set[str]())):
        folder = tmp_path / str(every)
        with pytest.raises(KeyboardInterrupt):
            stage("sft", tiny_model, folder, Fatal("s", at_step=3), checkpoint_every=every)
        assert {p.name for p in folder.glob("work/*/step-*")} == at


def test_every_evaluation_of_all_weights_can_be_kept(tiny_model: Path, tmp_path: Path) -> None:
    found = {}
    for keep in ("best", "all"):
        folder, spec = tmp_path / keep, ModelSpec(str(tiny_model))
        settings = {"batch_size": 4, "eval_every": 1, "max_steps": 3, "keep": keep, "lr": 1e-2}
        train = Train("base", "rows", SFT(), None, validation=0.25, **settings)
        where = StageInputs(spec, [], ChatML(), folder / "work", folder / "out")
        found[keep] = train.fit(chats(16), where, progress=Progress("s"), seed=3)
    assert found["all"]["last_loss"] == found["best"]["last_loss"]
    models = [p / "model" for p in (tmp_path / "all" / "out" / "checkpoints").iterdir()]
    assert sorted(p.parent.name for p in models) == ["step-1", "step-2", "step-3"]
    best = f"step-{found['all']['best_step']}"
    for model in models:
        config = json.loads((model / "config.json").read_text())
        tensors = load_file(model / "model.safetensors")
        assert config["dtype"] == "bfloat16"
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
        same = (tmp_path / "best" / "out" / "model" / "model.safetensors").read_bytes()
        assert ((model / "model.safetensors").read_bytes() == same) == (model.parent.name == best)
        assert "lm_head.weight" not in tensors


def test_wrong_settings_and_rows_are_told(tiny_model: Path, tmp_path: Path) -> None:
    where = StageInputs(ModelSpec(str(tiny_model)), [], ChatML(), tmp_path / "w", tmp_path / "o")
    nf4 = StageInputs(
        ModelSpec(str(tiny_model), "nf4"), [], ChatML(), tmp_path / "w", tmp_path / "o"
    )
    with pytest.raises(RecipeError, match="adapter: null"):
        Train("b", "r", SFT(), None).fit(chats(4), nf4, progress=Progress("s"), seed=0)
    untaught = Train("b", "r", SFT(learn_tool_choice=False))
    with pytest.raises(DataError, match="no answer in the rows is to a user who offers tools"):
        untaught.fit(chats(4), where, progress=Progress("s"), seed=0)
    with pytest.raises(DataError, match="none of its 2 rows"):
        Train("b", "r", SFT(), max_length=3).fit(chats(2), where, progress=Progress("s"), seed=0)
    with pytest.raises(ValueError, match="no effect"):
        Train("b", "r", SFT(), validation=0.0, patience=1)


def test_the_order_of_rows_is_a_function_of_seed_and_step(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    items: list[Any] = [Chat(str(i), ()) for i in range(10)]
    settings = Train("b", "r", SFT(), batch_size=3, epochs=2)
    work: Any = type("Rows", (), {"examples": items})()
    loop = SupervisedTrainer(
        settings,
        StageInputs(ModelSpec(""), [], ChatML(), tmp_path, tmp_path),
        Progress("s"),
        5,
        {},
        work,
    )
    seen = [loop.rows_of(step) for step in range(loop.num_steps)]
    half = len(seen) // 2
    assert sorted(chain(*seen[:half])) == sorted(chain(*seen[half:])) == loop.trained
    assert seen[:half] != seen[half:]
    assert len(loop.held_out) == 2


@pytest.mark.parametrize("kind", ["sft", "full"])
def test_recomputed_activations_change_nothing(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    stage(kind, tiny_model, tmp_path / "a", Progress("s"), recompute="never")
    stage(kind, tiny_model, tmp_path / "b", Progress("s"), recompute="always")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_noise_on_embeddings_while_training_only(tiny_model: Path, tmp_path: Path) -> None:
    for name, noise in (("plain", 0.0), ("noise", 5.0)):
        (tmp_path / name).mkdir()
        stage(
            "sft",
            tiny_model,
            tmp_path / name,
            Progress("s", tmp_path / name / "metrics.jsonl"),
            neftune=noise,
            max_steps=1,
        )
    (start, step, *_), (other_start, other_step, *_) = (
        steps(tmp_path / "plain"),
        steps(tmp_path / "noise"),
    )
    assert start["validation_loss"] == other_start["validation_loss"]
    assert step["loss"] != other_step["loss"]
    assert step["loss"] == pytest.approx(other_step["loss"], rel=0.2)
