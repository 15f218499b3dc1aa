"""Keys: what a stage's output depends on, part by part; every change reaches the stages behind it
and no other."""

import json
import os
from pathlib import Path

import pytest

from bezoar import __version__
from bezoar.errors import DataError, RecipeError
from bezoar.flow.cache_key import all_keys, changed, stage_parts
from bezoar.flow.recipe import load_recipe
from bezoar.io import content_hash, file_hash

RECIPE = """
name: keyed
seed: 1
budget_usd: 2.5
models: {base: {path: %s, dtype: float32}, far: {path: someone/their-model}}
backends:
  teacher: {kind: scripted, script: teacher.jsonl}
  judge: {kind: scripted, script: judge.jsonl}
  paid: {kind: endpoint, url: "http://x/v1", model: m, prices: {input_usd_per_million: 0, output_usd_per_million: 1}}
stages:
  seeds: {kind: jsonl, path: seeds.jsonl}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 4}
  kept: {kind: filter, rows: made, judge: judge, rubric: rubric.txt}
  sft: {kind: train, model: base, rows: kept, objective: {kind: sft}, adapter: {targets: [q_proj, k_proj]}}
  drawn: {kind: sample, seeds: seeds, model: sft, n: 2, goodness: {weights: {zest: 2.0}}, reward: scored}
  scored: {kind: train, model: far, rows: seeds, objective: {kind: regression}}
  eval: {kind: evaluate, model: sft, mt_bench: {judge: judge}}
  bought: {kind: lamini, seeds: seeds, teacher: paid, num_rows: 9}
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(RECIPE % (tmp_path / "model"))
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    for name in ("teacher", "judge"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"pattern": ".", "reply": name}) + "\n")
    (tmp_path / "rubric.txt").write_text("Accept or Reject?\n{record}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def keys(folder: Path) -> dict[str, str]:
    return all_keys(load_recipe(folder / "toy.yaml"))[0]


def test_the_parts_of_stages(folder: Path) -> None:
    recipe = load_recipe(folder / "toy.yaml")
    found, parts = all_keys(recipe)
    assert list(found) == list(parts) == list(recipe.stages)
    assert all(found[name] == content_hash(parts[name]) for name in found)
    seeds = parts["seeds"]
    assert {
        name: seeds[name]
        for name in ("bezoar", "seed", "path", "limit", "kind", f"file {folder.name}/seeds.jsonl")
    } == {
        "bezoar": __version__,
        "seed": "1",
        "path": json.dumps("seeds.jsonl"),
        "limit": "null",
        "kind": '"jsonl"',
        f"file {folder.name}/seeds.jsonl": "content " + file_hash(folder / "seeds.jsonl"),
    }
    made = parts["made"]
    assert (made["seeds"], made["num_rows"], made["lists.temperature"]) == (
        f"stage seeds {found['seeds']}",
        "4",
        "1.0",
    )
    assert made["teacher"] == "language model " + recipe.backends["teacher"].identity
    assert parts["kept"]["rubric"] == "content " + file_hash(folder / "rubric.txt")
    sft, scored = parts["sft"], parts["scored"]
    spec = {"path": str(folder / "model"), "quantize": "none", "dtype": "float32"}
    assert sft["model"] == "model " + content_hash(spec, file_hash(folder / "model"))
    assert scored["model"] == "model " + content_hash(
        {"path": "someone/their-model", "quantize": "none", "dtype": "bfloat16"}, ""
    )
    assert (sft["adapter.targets.0"], sft["adapter.targets.1"]) == ('"q_proj"', '"k_proj"')
    assert parts["drawn"]["goodness.weights.zest"] == "2.0"
    assert parts["drawn"]["model"] == f"stage sft {found['sft']}"
    graded = [name for name in parts["eval"] if name.startswith("file mt_bench/")]
    assert len(graded) == 4
    assert parts["eval"]["mt_bench.judge"] == "language model " + recipe.backends["judge"].identity


def test_the_template_counts_where_tokens_are_made(folder: Path) -> None:
    _, parts = all_keys(load_recipe(folder / "toy.yaml"))
    with_template = {name for name in parts if "template.kind" in parts[name]}
    assert with_template == {"sft", "scored", "drawn", "eval"}
    assert parts["drawn"]["template.kind"] == '"chatml"'


BEHIND_SFT = {"sft", "drawn", "eval"}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        (
            "toy.yaml",
            "seed: 1",
            "seed: 2",
            {"seeds", "made", "kept", "scored", "bought"} | BEHIND_SFT,
        ),
        ("toy.yaml", "num_rows: 4", "num_rows: 5", {"made", "kept"} | BEHIND_SFT),
        ("toy.yaml", "kind: sft}", "kind: sft, loss_on: all}", BEHIND_SFT),
        ("toy.yaml", "q_proj, k_proj", "k_proj, q_proj", BEHIND_SFT),
        ("toy.yaml", "n: 2", "n: 3", {"drawn"}),
        ("toy.yaml", "zest: 2.0", "zest: 2.5", {"drawn"}),
        ("toy.yaml", "dtype: float32", "dtype: bfloat16", BEHIND_SFT),
        ("toy.yaml", "someone/their-model", "someone/other-model", {"scored", "drawn"}),
        (
            "toy.yaml",
            "name: keyed",
            "name: keyed\ntemplate: {kind: openbezoar}",
            {"scored"} | BEHIND_SFT,
        ),
        ("toy.yaml", "budget_usd: 2.5", "budget_usd: 3.5", set()),
        ("toy.yaml", "name: keyed", "name: other", set()),
        # what refuses a file changes no row
        ("toy.yaml", "path: seeds.jsonl", "path: seeds.jsonl, limits: {rows: 9}", set()),
        ("seeds.jsonl", '"b"', '"c"', {"seeds", "made", "kept", "scored", "bought"} | BEHIND_SFT),
        ("teacher.jsonl", "teacher", "sage", {"made", "kept"} | BEHIND_SFT),
        ("judge.jsonl", "judge", "sage", {"kept"} | BEHIND_SFT),
        ("rubric.txt", "Accept", "Take", {"kept"} | BEHIND_SFT),
        ("model/config.json", "{}", "{ }", BEHIND_SFT),
    ],
)
def test_a_change_reaches_what_depends_on_it(
    file: str, old: str, new: str, stages: set[str], folder: Path
) -> None:
    before = keys(folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    after = keys(folder)
    assert {name for name in before if before[name] != after[name]} == stages
    (folder / file).write_text(text)
    assert keys(folder) == before


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    (folder / "rubric.txt").unlink()
    with pytest.raises(
        RecipeError, match=r"toy\.yaml: stages\.kept\.rubric: no such file: .*rubric\.txt"
    ):
        keys(folder)
    (folder / "rubric.txt").write_text("{record}")
    (folder / "model" / "config.json").rename(folder / "model" / "weights")
    with pytest.raises(
        DataError,
        match=(
            r"^model .*model: the folder has no config\.json; name a folder that a model was saved"
            r" to\.$"
        ),
    ):
        keys(folder)
    (folder / "model" / "weights").unlink()
    with pytest.raises(DataError, match=r"model: no such file; check the path\.$"):
        keys(folder)


def test_a_file_of_the_hub_is_not_fetched_for_its_key(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = (
        (folder / "toy.yaml")
        .read_text()
        .replace("judge: judge}", "judge: judge, questions: 'hub:owner/name/split'}")
    )
    (folder / "toy.yaml").write_text(text)
    recipe, before = load_recipe(folder / "toy.yaml"), os.environ.pop("BEZOAR_DATA", None)
    try:
        assert (
            stage_parts(recipe, "eval", {"sft": "k"})["mt_bench.questions"]
            == "hub:owner/name/split"
        )
    finally:
        if before is not None:
            os.environ["BEZOAR_DATA"] = before


@pytest.mark.parametrize(("size", "remembered"), [((1 << 24) - 1, 0), (1 << 24, 1)])
def test_the_hash_of_a_large_file_is_remembered(
    size: int, remembered: int, folder: Path, cache_folder: Path
) -> None:
    weights = folder / "model" / "weights"
    weights.touch()
    os.truncate(weights, size - 2)  # beside the two bytes of config.json
    first = keys(folder)
    assert (
        len(list((cache_folder / "hashes").glob("*")) if (cache_folder / "hashes").exists() else [])
        == remembered
    )
    assert keys(folder) == first
    with weights.open("r+b") as file:
        file.write(b"x")
    assert keys(folder)["sft"] != first["sft"]


def test_what_changed_as_people_read_it() -> None:
    old = {
        "also": "1",
        "n": "4",
        "gone": "x",
        "f": "content 1",
        "b": "language model 1",
        "s": "stage a 1",
        "m": "model 1",
    }
    new = {
        "also": "1",
        "n": "5",
        "f": "content 2",
        "b": "language model 2",
        "s": "stage c 2",
        "m": "model 2",
        "a": "y",
    }
    assert changed(old, new) == [
        "a: absent -> y",
        "b: the language model changed",
        "f: the content changed",
        "gone: x -> absent",
        "m: the model changed",
        "n: 4 -> 5",
        "s: the stage it reads changed (c)",
    ]
    assert changed(new, new) == []


def test_a_reference_that_became_a_value_is_shown_as_it_was() -> None:
    old = {"prior": "stage sft 1", "reward": "null", "model": "model 1", "file": "content 1"}
    assert changed(old, {"prior": "null", "reward": "stage rm 2", "model": "stage sft 2"}) == [
        "file: content 1 -> absent",
        "model: model 1 -> stage sft 2",
        "prior: stage sft 1 -> null",
        "reward: null -> stage rm 2",
    ]
