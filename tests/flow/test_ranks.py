"""Training on two processes that torchrun starts, against one: the same losses, weights, files."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.errors import RecipeError
from bezoar.flow.cache_key import all_keys
from bezoar.flow.plan import print_plan
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.terminal import Console
from tests.helpers.rows import chats, pairs

TWO = "{kind: torchrun, processes: 2}"
SFT = "objective: {kind: sft}, rows: chats"


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
    common = "lr: 0.01, batch_size: 5, tokens_per_batch: 100, epochs: 2, eval_every: 3"
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


def test_two_ranks_train_as_one_process(folder: Path, tiny_model: Path) -> None:
    stats, lines, weights = trained(recipe(folder, tiny_model, "one", SFT))
    two = trained(recipe(folder, tiny_model, "two", SFT, TWO))
    assert (stats["processes"], two[0]["processes"]) == (1, 2)
    same = ("rows_out", "steps", "tokens", "trained_tokens", "rows_validation", "best_step")
    assert {name: stats[name] for name in same} == {name: two[0][name] for name in same}
    assert len(lines) == len(two[1])
    for line, other in zip(lines, two[1], strict=True):
        for name in {"loss", "validation_loss", "grad_norm"} & line.keys():
            assert other[name] == pytest.approx(line[name], rel=1e-4), name
    for name, weight in weights.items():
        assert torch.allclose(weight, two[2][name], atol=2e-3), name


def test_where_it_runs_is_in_no_key(folder: Path, tiny_model: Path) -> None:
    one = load_recipe(recipe(folder, tiny_model, "one", SFT))
    two = load_recipe(recipe(folder, tiny_model, "two", SFT, TWO))
    own = load_recipe(recipe(folder, tiny_model, "own", f"{SFT}, launch: {TWO}"))
    assert one.launch_of("t").processes == 1
    assert two.launch_of("t").processes == own.launch_of("t").processes == 2
    assert all_keys(one) == all_keys(two) == all_keys(own)


@pytest.mark.parametrize(
    ("launch", "fault"),
    [
        ("{kind: torchrun, processes: 0}", "launch.processes: must be greater than or equal to 1"),
        ("{kind: torchrun}", "launch.processes: this key is needed; add it."),
        ("{kind: slurm}", "launch: unknown kind 'slurm'; the kinds here are local, torchrun."),
        ("torchrun", "a kind stands in a table; write `launch: {kind: torchrun}`."),
    ],
)
def test_a_wrong_launch_is_told(folder: Path, tiny_model: Path, launch: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(recipe(folder, tiny_model, "wrong", SFT, launch))


def test_what_cannot_run_on_several_processes_is_refused(folder: Path) -> None:
    path = folder / "ppo.yaml"
    path.write_text(
        f"name: ppo\nlaunch: {TWO}\nmodels: {{b: {{path: b}}}}\nstages:\n"
        "  chats: {kind: jsonl, path: chats.jsonl, response: answer}\n"
        "  p: {kind: grpo, model: b, rows: chats, rewards: [{kind: number}]}\n"
    )
    fault = "ppo.yaml:6: stages.p.launch: grpo trains on one process"
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(path)
    path.write_text(
        f"name: rows\nlaunch: {TWO}\nstages:\n"
        "  chats: {kind: jsonl, path: chats.jsonl, response: answer}\n"
    )
    with pytest.raises(RecipeError, match=re.escape("launch: nothing is trained; remove the key")):
        load_recipe(path)


def test_the_plan_says_where_a_stage_trains(folder: Path, tiny_model: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    path = recipe(folder, tiny_model, "two", SFT, TWO)
    print_plan(load_recipe(path), RunDir(folder / "runs" / "two"), console)
    assert (
        "t: trains on 2 processes of this machine, started by torchrun" in console.file.getvalue()
    )
