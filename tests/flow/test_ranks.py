"""Training on two processes that torchrun starts, against one: the same losses, weights, files."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bezoar.chat.templates import Hermes
from bezoar.errors import RecipeError, TrainingError
from bezoar.flow.cache_key import all_keys
from bezoar.flow.explain import Kind, all_kinds
from bezoar.flow.plan import print_plan
from bezoar.flow.rank import Job
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.flow.yaml_loader import build
from bezoar.launch import Torchrun
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.tensors import load_tensors, save_tensors
from bezoar.terminal import Console
from bezoar.train.memory import options, predict_memory
from bezoar.train.stages import Train
from tests.helpers.rows import chats, pairs

TWO = "{kind: torchrun, processes: 2}"
SFT = "objective: {kind: sft}, rows: chats"
FULL = f"{SFT}, adapter: null"
PARTS = "{kind: torchrun, processes: 2, shard: true}"
WAYS = [(SFT, TWO), (FULL, TWO), (SFT, PARTS)]
"""An adapter on whole bases, all weights in parts, and an adapter on a base in parts."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"prompt": c.messages[0].content, "answer": c.messages[-1].content} for c in chats(20)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"prompt": p.prompt[0].content, "chosen": p.chosen, "rejected": p.rejected}
        for p in pairs(14)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(folder: Path, model: Path, name: str, keys: str, launch: str = "{kind: local}") -> Path:
    """A recipe that trains one stage of float32 weights without dropout."""
    chats = "{kind: jsonl, path: chats.jsonl, response: answer}"
    rows = chats if "rows: chats" in keys else "{kind: jsonl, path: pairs.jsonl}"
    source = "chats" if "rows: chats" in keys else "pairs"
    rate = 0.001 if "adapter: null" in keys else 0.01
    common = f"lr: {rate}, batch_size: 5, tokens_per_batch: 100, epochs: 2, eval_every: 3"
    adapter = "" if "adapter" in keys else "adapter: {r: 4, dropout: 0.0}, "
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nseed: 3\nlaunch: {launch}\n"
        f"models: {{base: {{path: {model}, dtype: float32}}}}\n"
        f"stages:\n  {source}: {rows}\n"
        f"  t: {{kind: train, model: base, {adapter}{common}, {keys}}}\n"
    )
    return path


def trained(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Run a recipe: statistics, logged lines and trained weights."""
    from safetensors.torch import load_file

    run = RunDir(path.parent / path.stem / "run")  # beside each other they share what has one key
    stats = run_recipe(load_recipe(path), run)["t"]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    [weights] = (run.path / "02-t").glob("*/*.safetensors")
    return stats, lines, load_file(weights)


def same(lines: list[dict[str, Any]], others: list[dict[str, Any]], rel: float) -> None:
    """The same steps and evaluations, each once, with the same losses."""
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other in zip(lines, others, strict=True):
        for name in {"loss", "validation_loss", "tokens"} & line.keys():
            assert other[name] == pytest.approx(line[name], rel=rel), (line["step"], name)


def ranks_of(folder: Path) -> dict[str, int]:
    """The processes that train below a folder, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command, environment = (
                (process / file).read_text().split("\0") for file in ("cmdline", "environ")
            )
            names = dict(pair.partition("=")[::2] for pair in environment)
            is_ours = "bezoar.flow.rank" in command and str(folder) in command[-2]
            if is_ours and "RANK" in names:
                found[names["RANK"]] = int(process.name)
    return found


class Killer(threading.Thread):
    """Kills a rank once a step is logged."""

    def __init__(self, run: Path, rank: str, step: int) -> None:
        super().__init__(daemon=True)
        self.run_dir, self.rank, self.step, self.killed = run, rank, step, 0

    def run(self) -> None:
        metrics = self.run_dir / "metrics.jsonl"
        while not (metrics.is_file() and f'"step": {self.step}, "epoch"' in metrics.read_text()):
            time.sleep(0.01)
        self.killed = ranks_of(self.run_dir)[self.rank]
        os.kill(self.killed, signal.SIGKILL)


@pytest.mark.real
@pytest.mark.parametrize(("keys", "launch"), WAYS)
def test_two_ranks_train_as_one_and_a_killed_one_is_started_again(
    keys: str, launch: str, folder: Path, tiny_model: Path
) -> None:
    stats, lines, weights = trained(recipe(folder, tiny_model, "one", keys))
    two = trained(recipe(folder, tiny_model, "two", keys, launch))
    assert (stats["processes"], two[0]["processes"]) == (1, 2)
    counts = ("rows_out", "steps", "tokens", "trained_tokens", "rows_validation", "best_step")
    assert {name: stats[name] for name in counts} == {name: two[0][name] for name in counts}
    same(lines, two[1], rel=1e-4)
    for name, weight in weights.items():
        assert torch.allclose(weight, two[2][name], atol=2e-3), name
    # the same with a rank that is lost in the middle
    path = recipe(folder, tiny_model, "killed", f"{keys}, checkpoint_every: 2", launch)
    killer = Killer(folder / "killed" / "run", "1", 3)
    killer.start()
    killed = trained(path)
    assert killer.killed
    same(two[1], killed[1], rel=0)
    assert all(torch.equal(weight, killed[2][name]) for name, weight in two[2].items())
    assert not ranks_of(folder)


@pytest.mark.real
@pytest.mark.parametrize(("keys", "launch"), WAYS)
def test_a_checkpoint_goes_on_with_another_number_of_ranks(
    keys: str, launch: str, folder: Path, tiny_model: Path
) -> None:
    keys = f"{keys}, checkpoint_every: 1"
    whole = trained(recipe(folder, tiny_model, "whole", keys))
    path = recipe(folder, tiny_model, "moved", keys, launch)
    run = RunDir(path.parent / "moved" / "run")
    for where, stop in ((launch, 2), ("{kind: local}", 5)):
        recipe(folder, tiny_model, "moved", keys, where)

        def board(stage: str, step: int, numbers: dict[str, float], stop: int = stop) -> None:
            if step >= stop and "loss" in {name.partition("/")[2] for name in numbers}:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_recipe(load_recipe(path), run, log=[board])
        assert not ranks_of(folder)
    recipe(folder, tiny_model, "moved", keys, launch)
    moved = trained(path)
    same(whole[1], moved[1], rel=1e-4)
    assert moved[0]["processes"] == 2
    for name, weight in whole[2].items():
        assert torch.allclose(weight, moved[2][name], atol=2e-3), name


@pytest.mark.real
def test_a_model_that_each_rank_loads_whole_is_told(folder: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, folder / "mixed")
    file = folder / "mixed" / "model.safetensors"
    tensors = load_tensors(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()
    save_tensors(file, tensors)
    console = Console(file=io.StringIO(), width=200)
    path = recipe(folder, folder / "mixed", "mixed", f"{FULL}, max_steps: 1", TWO)
    run_recipe(load_recipe(path), RunDir(folder / "run"), console=console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.count("t: files of several types (BF16, F32): each rank loads all of them") == 1


@pytest.mark.real
def test_the_error_of_a_rank_ends_all_with_its_rows(folder: Path, tiny_model: Path) -> None:
    keys = SFT.replace("rows", "schedule: constant, warmup_ratio: 0.0, rows")
    path = recipe(folder, tiny_model, "wild", keys, TWO)
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 1.0e+30"))
    started = time.monotonic()
    with pytest.raises(
        TrainingError, match=r"^stage t: rank [01] of 2: .* on the rows \S+"
    ) as told:
        run_recipe(load_recipe(path), RunDir(folder / "wild" / "run"))
    assert len(str(told.value).splitlines()) == 1
    assert not ranks_of(folder)
    assert time.monotonic() - started < 60


@pytest.mark.real
def test_a_cluster_starts_the_processes_itself(folder: Path, tiny_model: Path) -> None:
    """Two stages, the first of which trains on one process, and the report."""
    path = recipe(folder, tiny_model, "alone", f"{SFT}, launch: {{kind: local}}")
    text = path.read_text()
    path.write_text(
        text
        + text[text.index("  t:") :]
        .replace("t:", "u:", 1)
        .replace(", launch: {kind: local}", "")
        .replace("model: base", "model: t")
    )
    out = folder / "cluster"
    command = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", "-m", "bezoar", "run", str(path), "--out", str(out)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=quiet, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("02 t:") == done.stdout.count("03 u:") == 1
    found = [json.loads((out / stage / "stats.json").read_text()) for stage in ("02-t", "03-u")]
    assert [stats["processes"] for stats in found] == [1, 2]
    assert (out / "report.html").is_file()


def test_where_it_runs_is_in_no_key(folder: Path, tiny_model: Path) -> None:
    one = load_recipe(recipe(folder, tiny_model, "one", SFT))
    two = load_recipe(recipe(folder, tiny_model, "two", SFT, TWO))
    own = load_recipe(recipe(folder, tiny_model, "own", f"{SFT}, launch: {TWO}"))
    assert one.launch_of("t").ranks == 1
    assert two.launch_of("t").processes == own.launch_of("t").processes == 2
    assert all_keys(one) == all_keys(two) == all_keys(own)


@pytest.mark.parametrize(
    ("launch", "fault"),
    [
        ("{kind: torchrun, processes: 0}", "launch.processes: must be greater than or equal to 1"),
        ("{kind: torchrun}", "launch.processes: this key is needed; add it."),
        ("{kind: slurm}", "launch: unknown kind 'slurm'; the kinds here are local, torchrun, ray."),
        ("{kind: torchrun, processes: 1, hosts: 2}", "hosts need a rendezvous, HOST:PORT of one"),
        (
            "{kind: torchrun, processes: 2, rendezvous: 'a:1'}",
            "rendezvous has an effect only with several hosts; remove it",
        ),
        (
            "{kind: torchrun, processes: 1, hosts: 2, rendezvous: 'a:1', restarts: 1}",
            "restarts has an effect only on one host; remove it",
        ),
        ("torchrun", "a kind stands in a table; write `launch: {kind: torchrun}`."),
    ],
)
def test_a_wrong_launch_is_told(folder: Path, tiny_model: Path, launch: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(recipe(folder, tiny_model, "wrong", SFT, launch))


def test_a_launch_without_effect_is_refused(folder: Path, tiny_model: Path) -> None:
    path = recipe(folder, tiny_model, "own", f"{SFT}, launch: {{kind: local}}", TWO)
    fault = "own.yaml:3: launch: every stage that trains has a launch of its own"
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(path)
    path.write_text(
        f"name: rows\nlaunch: {TWO}\nstages:\n"
        "  chats: {kind: jsonl, path: chats.jsonl, response: answer}\n"
    )
    with pytest.raises(RecipeError, match=re.escape("launch: nothing is trained; remove the key")):
        load_recipe(path)
    two = "{kind: torchrun, processes: 1, hosts: 2, rendezvous: 'a:1'}"
    fault = "launch: hosts carry out the whole recipe together, and not one stage of it"
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(recipe(folder, tiny_model, "own", f"{SFT}, launch: {two}"))


@pytest.mark.parametrize("setting", ["extrapolate: 1.5", "optimizer: adamw_8bit_paged"])
def test_what_cannot_be_in_parts_is_refused(setting: str, folder: Path, tiny_model: Path) -> None:
    path = recipe(folder, tiny_model, "parts", f"{FULL}, {setting}", TWO)
    fault = f"stages.t.{setting.partition(':')[0]}: it is not known to weights in parts"
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(path)
    path.write_text(path.read_text().replace("processes: 2", "processes: 2, shard: false"))
    load_recipe(path)


def test_what_is_whole_on_each_rank_is_told(folder: Path, tiny_model: Path) -> None:
    path = recipe(folder, tiny_model, "base", SFT, PARTS)
    load_recipe(path)
    path.write_text(path.read_text().replace("dtype: float32", "quantize: nf4"))
    fault = "base.yaml:7: stages.t.model: a base in 4 bits is not known in parts; remove `shard: tr"
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(path)
    path.write_text(path.read_text().replace(", shard: true", ""))
    load_recipe(path)
    policy = "{kind: rloo, model: base, rows: chats, rewards: [{kind: number}], samples: 2}"
    text = recipe(folder, tiny_model, "drawn", SFT, PARTS).read_text()
    (folder / "drawn.yaml").write_text(f"{text}  u: {policy}\n")
    with pytest.raises(RecipeError, match=re.escape("u.kind: answers are drawn by a model that")):
        load_recipe(folder / "drawn.yaml")


def job(stage: Any, folder: Path) -> Job:
    spec, template = ModelSpec("b", add_tokens=("<x>",)), Hermes()
    where = folder / "work", folder / "out", (ModelSpec("r"), (Path("a"),))
    return Job("s", stage, folder / "rows.parquet", spec, (), template, *where, 7, None)


@pytest.mark.parametrize("kind", [k for k in all_kinds() if k.category == "trainings"])
def test_a_rank_is_given_the_stage_as_it_is(kind: Kind, folder: Path) -> None:
    stage = build(kind.cls, yaml.safe_load(kind.example), path=folder, lines={})
    given = job(replace(stage, launch=Torchrun(2), lr=1 / 3), folder)
    (folder / "work").mkdir()
    assert Job.load(given.save()) == given


def test_the_plan_says_where_a_stage_trains(folder: Path, tiny_model: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    path = recipe(folder, tiny_model, "two", SFT, TWO)
    print_plan(load_recipe(path), RunDir(folder / "runs" / "two"), console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "t: trains on 2 processes of this machine, started by torchrun, 1." in told


def test_weights_in_parts_need_less_memory_a_process(folder: Path, tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    stage = load_recipe(recipe(folder, tiny_model, "full", FULL)).stages["t"]
    assert isinstance(stage, Train)

    def held(launch: Torchrun | None) -> int:
        more = options(replace(stage, launch=launch))
        memory = predict_memory(config, ModelSpec("b"), None, tokens=10, **more)
        assert memory is not None
        return memory.weights + memory.trained + memory.best

    assert held(Torchrun(4)) == pytest.approx(held(None) / 4, abs=3)
    assert held(Torchrun(4, shard=False)) == held(None)

    def base(launch: Torchrun | None) -> tuple[int, int]:
        more = options(replace(stage, adapter=LoRA(), launch=launch))
        memory = predict_memory(config, ModelSpec("b"), LoRA(), tokens=10, **more)
        assert memory is not None
        return memory.weights, memory.trained

    weights, trained = base(None)
    assert base(Torchrun(4)) == (weights, trained)
    assert base(Torchrun(4, shard=True)) == (weights // 4, trained)
