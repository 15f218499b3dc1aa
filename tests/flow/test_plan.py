"""What a plan says of trainings: steps, tokens, time, and what will not work."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bezoar.cli import app
from bezoar.flow.plan import StagePlan, make_plan
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from bezoar.flow.training_time import duration, measured_rate
from tests.helpers.command import bezoar, refused

RECIPE = """name: planned
models:
  base: {path: MODEL, dtype: float32}
stages:
  pairs: {kind: jsonl, path: pairs.jsonl}
  sft:
    kind: train
    model: base
    rows: pairs
    objective: {kind: sft}
    batch_size: 4
    epochs: 2
    validation: 0.25
    max_length: 400
"""


def written(folder: Path, model: Path, num: int = 40, more: str = "", long: int = 0) -> Path:
    pairs = [
        {
            "prompt": f"What of number {n}?",
            "chosen": f"It is {n}." + (" And on it goes." * 40 if n < long else ""),
            "rejected": "No.",
        }
        for n in range(num)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "r.yaml").write_text(RECIPE.replace("MODEL", str(model)) + more)
    return folder / "r.yaml"


def line(path: Path, name: str = "sft") -> StagePlan:
    lines = make_plan(load_recipe(path), RunDir(path.parent / "runs" / "planned"))
    return next(line for line in lines if line.name == name)


def test_steps_and_tokens_are_those_of_the_run(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path, out = written(tmp_path, tiny_model), tmp_path / "runs" / "planned"
    plan = line(path).training
    assert plan is not None
    # 40 rows, a quarter held out: 30 in steps of 4 are 8 a pass
    assert (plan.rows, plan.held_out, plan.steps, plan.epochs) == (40, 10, 16, 2)
    assert plan.exact
    assert not line(path).warnings
    bezoar("run", path, "--out", out)
    stats = json.loads((out / "02-sft" / "stats.json").read_text())
    assert stats["steps"] == 16
    assert stats["tokens"] == pytest.approx(plan.tokens, rel=0.03)
    done = line(path).training
    assert done is not None
    assert (done.rows, done.held_out, done.steps, done.tokens) == (40, 10, 16, stats["tokens"])
    assert done.epochs == 2


def test_the_tools_of_rows_that_are_yet_to_be_drawn_are_counted(
    tmp_path: Path, roomy_model: Path, cache_folder: Path
) -> None:
    tools = "pairs: {kind: tool_calls, num_rows: 10}"
    path = written(tmp_path, roomy_model)
    drawn = path.read_text().replace("pairs: {kind: jsonl, path: pairs.jsonl}", tools)
    drawn = drawn.replace("models:", "template: {kind: hermes}\nmodels:", 1)
    path.write_text(drawn.replace("max_length: 400", "max_length: 8000"))
    plan, out = line(path).training, tmp_path / "runs" / "planned"
    assert plan is not None
    bezoar("run", path, "--out", out)
    stats = json.loads((out / "02-sft" / "stats.json").read_text())
    assert plan.exact
    assert stats["tokens"] == pytest.approx(plan.tokens, rel=0.1)
    # behind a filter, or written by a teacher, they are as long as such rows usually are
    form = f"{tools.replace('10', '9')}\n  kept: {{kind: form, rows: pairs, max_words: 6000}}"
    path.write_text(path.read_text().replace(tools, form).replace("rows: pairs\n", "rows: kept\n"))
    plan = line(path).training
    assert plan is not None
    assert plan.tokens == pytest.approx(plan.epochs * (plan.rows - plan.held_out) * 540)


def test_the_time_is_from_trainings_on_this_device(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path, run = written(tmp_path, tiny_model), RunDir(tmp_path / "runs" / "planned")
    plan = line(path)
    assert plan.flops is not None
    assert plan.training is not None
    size = plan.flops / plan.training.tokens
    product = measured_rate(run, size)
    assert product.source == "a matrix product"
    assert list((cache_folder / "rates").iterdir())
    assert measured_rate(run, size) == product  # kept
    # 16 steps of a tiny model: hardly any products, and time all the same
    assert 3 + 16 * 0.4 <= product.seconds(plan.flops, 16) < 3 + 16 * 0.4 + 1
    assert "~9 s" in bezoar("plan", path, "--out", run.path)
    bezoar("run", path, "--out", run.path)
    rate, source, step_s = measured_rate(run, size)
    stats = json.loads((run.path / "02-sft" / "stats.json").read_text())
    assert rate == stats["flops"] / stats["training_s"]
    assert source == "finished trainings of models of about this size on this device (1)"
    assert not step_s  # the rate has it in it
    # a model of another size goes by the product: a tiny one is held up by other things
    assert measured_rate(run, size * 1000) == measured_rate(run, size / 4) == product
    # the same stage once more should take as long as it took
    again = line(written(tmp_path, tiny_model, more="    lr: 3e-4\n"))
    assert again.flops is not None
    assert again.flops / rate == pytest.approx(stats["training_s"], rel=0.35)
    # a rate of another device says nothing
    text = (run.path / "02-sft" / "stats.json").read_text()
    (run.path / "02-sft" / "stats.json").write_text(text.replace(stats["device"], "a toaster"))
    assert measured_rate(run, size) == product


@pytest.mark.parametrize(
    ("num", "more", "warning"),
    [
        (5, "", "one step of training in all (4 rows, batch_size 4, epochs 1)"),
        (12, "", "3 of 12 rows are for validation, and fewer than 8"),
        (40, "    warmup_ratio: 0.9\n", "the warm-up takes 15 of 16 steps"),
        (40, "    lr: 0.1\n", "the learning rate 0.1 is far above what is usual here (2e-05"),
        (40, "    lr: 1e-7\n", "the learning rate 1e-07 is far below"),
        (40, "    lr: 1e-3\n    adapter: null\n", "the learning rate 0.001 is far above"),
    ],
)  # fmt: skip
def test_what_will_not_work_is_a_warning(
    num: int, more: str, warning: str, tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path = written(tmp_path, tiny_model, num, more)
    if num == 5:
        path.write_text(path.read_text().replace("epochs: 2", "epochs: 1"))
    assert f"sft: warning: {warning}" in bezoar("plan", path)


def test_rows_that_max_length_drops_are_counted(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path = written(tmp_path, tiny_model, 40, long=10)
    said = bezoar("plan", path)
    assert "25% of the rows are longer than max_length 400 (the longest: " in said, said
    assert "and are dropped; raise it" in said
    plan = line(path).training
    assert plan is not None
    assert (plan.rows, plan.held_out) == (30, 8)
    path = written(tmp_path, tiny_model, 40, "    too_long: cut\n", long=10)
    assert "and are cut; raise it" in bezoar("plan", path)


def test_an_evaluation_on_the_rows_of_training_is_a_warning(
    tmp_path: Path, tiny_model: Path
) -> None:
    more = (
        "  dpo: {kind: train, model: sft, rows: others, objective: {kind: dpo}}\n"
        "  others: {kind: jsonl, path: pairs.jsonl, skip: 20}\n"
        "  eval: {kind: evaluate, model: dpo, preferences: {rows: pairs}}\n"
        "  eval-base: {kind: evaluate, model: base, preferences: {rows: pairs}}\n"
        "  eval-sft: {kind: evaluate, model: sft, preferences: {rows: others}}\n"
    )
    path = written(tmp_path, tiny_model, more=more)
    (warning,) = line(path, "eval").warnings
    assert warning.startswith("preferences.rows is pairs, which the model is trained on: ")
    assert "held_out" in warning
    assert not line(path, "eval-base").warnings
    # exact names only: `others` does not train sft
    assert not line(path, "eval-sft").warnings


def test_the_first_rows_of_a_large_file_tell_how_many_are_too_long(
    tmp_path: Path, tiny_model: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bezoar.data.source._SMALL_BYTES", 100)
    monkeypatch.setattr("bezoar.flow.training_plan._MOST_TOKENISED", 20)
    path = written(tmp_path, tiny_model, 40, long=10)
    plan = line(path)
    assert plan.training is not None
    assert not plan.training.exact
    assert plan.training.rows == 20  # half of the first 20 are too long, so half of 40
    assert "50% of the rows are longer than max_length 400" in plan.warnings[-1]


def test_rows_longer_than_the_model_sees_are_a_warning(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path = written(tmp_path, tiny_model)
    assert "the model sees" not in bezoar("plan", path)
    path.write_text(path.read_text().replace("max_length: 400", "max_length: 600"))
    said = f"warning: {path}:14: stages.sft.max_length: 600 is more than the 512 tokens that"
    assert said in bezoar("plan", path)
    assert said in bezoar("run", path, "--out", tmp_path / "out")


def test_where_all_rows_are_too_long_nothing_starts(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    path = written(tmp_path, tiny_model, 40)
    path.write_text(path.read_text().replace("max_length: 400", "max_length: 3"))
    for command in ("plan", "run"):
        said = refused(command, path)
        assert "stages.sft.max_length: all rows of pairs are longer (the shortest: " in said
        assert "warning" not in said
    assert not (tmp_path / "runs" / "planned" / "01-pairs").exists()


def test_the_first_rows_of_a_large_file_do_not_stop_a_run(
    tmp_path: Path, tiny_model: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bezoar.data.source._SMALL_BYTES", 100)
    monkeypatch.setattr("bezoar.flow.training_plan._MOST_TOKENISED", 10)
    # the ten first rows are the long ones
    said = bezoar("plan", written(tmp_path, tiny_model, 40, long=10))
    assert "100% of the rows are longer than max_length 400" in said


def test_an_evaluation_of_few_items_is_a_warning(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    more = "  eval: {kind: evaluate, model: sft, preferences: {rows: pairs, limit: 5}}\n"
    said = bezoar("plan", written(tmp_path, tiny_model, more=more))
    assert "eval: warning: preferences has 5 items, and fewer than 8" in said


def test_the_tables_are_whole_at_80_columns(
    tmp_path: Path, tiny_model: Path, cache_folder: Path
) -> None:
    more = "  a-stage-with-quite-a-long-name-as-people-have-them:\n" + "".join(
        f"{text}\n" for text in RECIPE.partition("  sft:\n")[2].splitlines()
    )
    path = written(tmp_path, tiny_model, more=more)
    said = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["plan", str(path)]).output
    tables = said[said.index("stage") : said.index("Times")].splitlines()
    assert max(map(len, tables)) <= 80
    assert "…" not in said
    for column in ("rows", "requests", "tokens", "USD", "GiB", "validation", "steps", "epochs"):
        assert column in said


def test_lengths_of_time_are_words() -> None:
    assert [duration(s) for s in (4.4, 89, 90, 720, 5400)] == [
        "4 s",
        "89 s",
        "2 min",
        "12 min",
        "1.5 h",
    ]
