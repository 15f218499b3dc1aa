"""Every recipe runs: all its stages on a few rows, two training steps, a tiny random model and a
scripted teacher and judge."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from bezoar.data import SOURCES
from bezoar.flow.recipe import Recipe, load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.llm.scripted import ScriptedBackend, last_user
from bezoar.llm.types import Backend, Reply, Request
from bezoar.report import finish

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
ROWS = {
    "dolly": "bezoar:instructions.jsonl",
    "flan": "bezoar:tasks.jsonl",
    "hh_rlhf": "bezoar:preferences_train.jsonl",
    "ultrafeedback": "pairs.jsonl",
    "helpsteer2": "bezoar:attributes_train.jsonl",
    "helpsteer2_preference": "compared.jsonl",
    "hub": "chats.jsonl",
}
SMALL = {
    "limit": 3,
    "num_rows": 3,
    "num_seeds": 3,
    "rounds": 1,
    "times": 1,
    "max_tokens": 60,
    "judge_tokens": 60,
    "max_steps": 2,
    "batch_size": 2,
    "keep_share": 0.9,
    "n": 2,
    "updates": 2,
    "samples": 2,
    "targets": "all-linear",  # the stand-in has the names of another architecture
}
LEVELS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
THINGS = (
    "a river stone",
    "the northern lights",
    "an old violin",
    "bread without yeast",
    "a paper boat",
    "tax law in Peru",
)
FORMS = (
    "Describe {} to a child in three plain sentences",
    "What would a poet notice first about {}, and why does it matter",
    "List five surprising facts on the history behind {}",
    "Write a short letter of complaint concerning {}",
    "Compare two common opinions people hold when they discuss {}",
    "Explain step by step how somebody could examine {} at home",
)


def reply(request: Request) -> str:
    """What every scripted model says: something that whoever asked can read."""
    if request.choices:
        return request.choices[0]
    if "Not Equal" in last_user(request):
        return "Not Equal"
    if "<example>" in last_user(request) + request.prefill:
        return "".join(
            f"<example>{form.format(thing)}.</example>\n"
            for form, thing in zip(FORMS, THINGS, strict=True)
        )
    return "Accept: fine. [[7]]" + "".join(f"\n{name}: 3" for name in LEVELS)


class Speaker(ScriptedBackend):
    """To whom every given text is news."""

    def _reply(self, request: Request) -> Reply:
        found = super()._reply(request)
        return replace(found, logprobs=(-40.0,)) if len(request.choices) == 1 else found


@dataclass(frozen=True)
class Anyone:
    """Stands in for every language model of a recipe."""

    identity: str = "anyone"

    def open(self) -> Backend:
        return Speaker(reply)


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for long prompts."""
    folder = tmp_path_factory.mktemp("roomy") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return folder


def small(value: Any) -> Any:
    """A recipe's values at the size of a test."""
    if isinstance(value, list):
        return [small(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: SMALL.get(k, small(v)) if v is not None else None for k, v in value.items()}


def shrink(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage on rows that are at hand."""
    kind = stage["kind"]
    if kind in SOURCES:
        kept = {
            k: v
            for k, v in stage.items()
            if k not in ("limit", "skip", "per_submix", "split", "subset")
        }
        path = stage["path"] if stage["path"].startswith("bezoar:") else ROWS[kind]
        path = "pairs.jsonl" if stage["path"].endswith("tldr-preference") else path
        kept |= {"kind": "jsonl"} if kind == "hub" else {}
        return {**kept, "path": path} if kind == "flan" else {**kept, "path": path, "limit": 8}
    stage = small(stage)
    if "max_length" in stage:  # a token of the tiny model is a byte
        stage["max_length"] = 4096
    if kind == "train":
        return {**stage, "max_steps": 2, "optimizer": "adamw", "tokens_per_batch": 4096}
    for section in ("mt_bench", "win_rate", "revision", "preferences", "overlap", "over_rows"):
        if section in stage:
            stage[section] = {
                **stage[section],
                "limit": 2,
                **({} if section == "preferences" else {"max_tokens": 20}),
            }
            if "questions" in stage[section]:
                stage[section]["questions"] = "bezoar:questions.jsonl"
    if "reward_bench_2" in stage:
        stage["reward_bench_2"]["file"] = "bench.jsonl"
    if "pairs" in stage.get("reward_bench", {}):
        stage["reward_bench"]["pairs"] = ["gold.jsonl"]
    if "lm_eval" in stage:
        stage["lm_eval"] = {"tasks": [{"path": "bezoar:choices.jsonl", "limit": 2}]}
    return stage


def prepare(path: Path, model: Path, folder: Path) -> Recipe:
    """The recipe, shrunk into `folder`."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["models"] = {name: {"path": str(model), "dtype": "float32"} for name in recipe["models"]}
    recipe["backends"] = {
        name: {"kind": "scripted", "script": "script.jsonl"} for name in recipe.get("backends", {})
    }
    recipe["stages"] = {name: shrink(stage) for name, stage in recipe["stages"].items()}
    recipe.pop("budget_usd", None)
    recipe["template"] = {"kind": "chatml"}
    (folder / "script.jsonl").write_text("")
    words = ["some words on rain", "a longer text about the sea and its tides", "no"]
    pairs = [
        {
            "prompt": f"What of {t}?",
            "chosen": f"{words[i % 2]} and {t}",
            "rejected": words[2],
            "score_chosen": 8,
            "score_rejected": 3,
        }
        for i, t in enumerate(THINGS)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    chats = [
        {
            "messages": [
                {"role": "user", "content": p["prompt"]},
                {"role": "assistant", "content": p["chosen"]},
            ]
        }
        for p in pairs
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
    compared = [
        {
            "prompt": p["prompt"],
            "response_1": p["chosen"],
            "response_2": p["rejected"],
            "preference_strength": -2,
            "split": "train",
        }
        for p in pairs
    ]
    (folder / "compared.jsonl").write_text("".join(json.dumps(c) + "\n" for c in compared))
    (folder / "gold.jsonl").write_text(
        "".join(
            json.dumps({"id": i, "subset": "donotanswer", **p}) + "\n" for i, p in enumerate(pairs)
        )
    )
    bench = {"id": "1", "prompt": "Why?", "chosen": ["So."], "rejected": ["No."], "subset": "Math"}
    (folder / "bench.jsonl").write_text(json.dumps(bench))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    loaded = load_recipe(folder / "recipe.yaml")
    return Recipe(**{**vars(loaded), "backends": dict.fromkeys(loaded.backends, Anyone())})


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_runs(path: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    recipe = prepare(path, model, tmp_path)
    stats = run_recipe(recipe, RunDir(tmp_path / "run"))
    finish(tmp_path / "run", Console(quiet=True))
    assert list(stats) == list(recipe.stages)
    assert all(stats[name].get("rows_out", 1) for name in recipe.stages)
    assert all(
        stats[name]["steps"] == 2 for name, stage in recipe.stages.items() if stage.kind == "train"
    )
    assert (tmp_path / "run" / "report.html").is_file()
