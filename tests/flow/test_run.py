"""A recipe is carried out once, goes on where it was killed, and runs again only what changed."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.inspect_run import why
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir

RECIPE = """
name: toy
seed: 1
backends:
  teacher: {kind: scripted, script: teacher.jsonl}
  judge: {kind: scripted, script: judge.jsonl}
stages:
  seeds: {kind: jsonl, path: seeds.jsonl}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 4, topic_share: 0.0}
  kept: {kind: filter, rows: made, judge: judge, rubric: rubric.txt}
"""
THINGS = [
    "a river stone",
    "the northern lights",
    "an old violin",
    "bread without yeast",
    "a paper boat",
    "tax law in Peru",
]
FORMS = [
    "Describe {} to a child in three plain sentences",
    "What would a poet notice first about {}, and why does it matter",
    "List five surprising facts on the history behind {}",
    "Write a short letter of complaint concerning {}",
    "Compare two common opinions people hold when they discuss {}",
    "Explain step by step how somebody could examine {} at home",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    seeds = [
        {"prompt": f"Seed question number {i} about {t}?", "response": f"Answer {i}."}
        for i, t in enumerate(THINGS)
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(s) + "\n" for s in seeds))
    examples = "".join(
        f"<example>{form.format(thing)}.</example>\n"
        for form, thing in zip(FORMS, THINGS, strict=True)
    )
    teacher = [
        {"pattern": "<example>", "reply": examples},
        {"pattern": ".*?([A-Z].*)", "reply": "This is a fitting answer to: \\1"},
    ]
    (tmp_path / "teacher.jsonl").write_text("".join(json.dumps(s) + "\n" for s in teacher))
    judge = [
        {"pattern": "poet|letter", "reply": "Reject: dull"},
        {"pattern": "child", "reply": "who knows"},
        {"pattern": ".", "reply": "Accept: fine"},
    ]
    (tmp_path / "judge.jsonl").write_text("".join(json.dumps(s) + "\n" for s in judge))
    (tmp_path / "rubric.txt").write_text("Accept or Reject?\n{record}\n")
    return tmp_path


def run(folder: Path) -> dict[str, object]:
    return dict(run_recipe(load_recipe(folder / "toy.yaml"), RunDir(folder / "runs" / "toy")))


def place(folder: Path) -> RunDir:
    return RunDir(folder / "runs" / "toy")


def test_the_second_run_does_no_work(folder: Path) -> None:
    assert list(run(folder)) == ["seeds", "made", "kept"]
    assert run(folder) == {}
    assert len(place(folder).items("made")) == 4


def test_rows_are_counted_and_rejected_rows_are_kept(folder: Path) -> None:
    stats = run(folder)["kept"]
    assert stats["rows_in"] == 4  # type: ignore[index]
    assert stats["rows_out"] + sum(stats["dropped"].values()) == 4  # type: ignore[index]
    assert all(chat.meta["verdict"] == "accept" for chat in place(folder).items("kept"))


def test_the_judges_prompt_changes_the_filter_alone(folder: Path) -> None:
    run(folder)
    (folder / "rubric.txt").write_text("Judge this: Accept or Reject?\n{record}\n")
    recipe = load_recipe(folder / "toy.yaml")
    reasons = "\n".join(why(recipe, place(folder), "kept"))
    assert "rubric: the content changed" in reasons
    assert "is current" in why(recipe, place(folder), "made")[0]
    assert list(run(folder)) == ["kept"]


def test_a_changed_setting_is_named(folder: Path) -> None:
    run(folder)
    (folder / "toy.yaml").write_text(RECIPE.replace("num_rows: 4", "num_rows: 3"))
    recipe = load_recipe(folder / "toy.yaml")
    assert any("num_rows: 4 -> 3" in line for line in why(recipe, place(folder), "made"))
    assert list(run(folder)) == ["made", "kept"]


def test_a_run_directory_of_another_recipe_is_refused(folder: Path) -> None:
    run(folder)
    (folder / "toy.yaml").write_text(RECIPE.replace("name: toy", "name: other"))
    with pytest.raises(RecipeError, match="belongs to the recipe 'toy'"):
        run(folder)


def test_a_folder_that_is_no_run_directory_is_refused(folder: Path) -> None:
    place(folder).path.mkdir(parents=True)
    (place(folder).path / "thesis.txt").write_text("precious")
    with pytest.raises(RecipeError, match="not empty"):
        run(folder)
    assert (place(folder).path / "thesis.txt").read_text() == "precious"


def test_two_processes_on_one_run_directory(folder: Path) -> None:
    with place(folder).locked(), pytest.raises(RecipeError, match="another bezoar process"):
        run(folder)


def rows_bytes(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted((folder / "runs" / "toy").glob("*/rows.parquet"))]


def test_a_run_killed_at_random_moments_ends_with_the_same_rows(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run(folder)
    whole = rows_bytes(folder)
    subprocess.run(["rm", "-r", str(folder / "runs")], check=True)
    draw = random.Random(5)
    command = [
        sys.executable,
        "-c",
        "from bezoar.cli import main; main()",
        "run",
        str(folder / "toy.yaml"),
        "--out",
        str(folder / "runs" / "toy"),
    ]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(folder)
    assert rows_bytes(folder) == whole
    with sqlite3.connect(folder / "runs" / "journal.sqlite") as journal:
        tables = [
            name
            for (name,) in journal.execute("select name from sqlite_master where type = 'table'")
        ]
        counts = {
            t: journal.execute(f"select count(*), count(distinct key) from {t}").fetchone()
            for t in tables
        }
    assert all(total == distinct for total, distinct in counts.values())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("rows: made", "rows: mad"),
        ("judge: judge", "judge: judgee"),
        ("num_rows: 4", "num_row: 4"),
        ("kind: filter", "kind: filtr"),
    ],
)
def test_a_mistake_exits_2_with_one_sentence(folder: Path, change: str, what: str) -> None:
    (folder / "toy.yaml").write_text(RECIPE.replace(change, what))
    command = [
        sys.executable,
        "-c",
        "from bezoar.cli import main; main()",
        "run",
        str(folder / "toy.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ})
    assert done.returncode == 2
    assert "toy.yaml:" in done.stderr
    assert "did you mean" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
