import json
from collections.abc import Callable
from pathlib import Path

from bezoar.io import write_jsonl
from bezoar.parquet import write_parquet
from bezoar.report.rows import MAX_READ, meta, num_words, read_rows, spaced
from bezoar.report.run import load_run

Build = Callable[..., Path]


def lines(run_dir: Path, rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    write_jsonl(run_dir / "metrics.jsonl", rows)
    return [
        (r["step"], r.get("loss", r.get("validation_loss")))
        for r in load_run(run_dir).metrics["dpo"]
    ]


def test_a_continued_run_replaces_the_steps_it_did_again(fresh: Build) -> None:
    run_dir = fresh(until="dpo")
    steps = [(1, 0.9), (2, 0.8), (3, 0.7), (2, 0.81), (3, 0.71), (4, 0.6)]
    rows: list[dict[str, object]] = [{"stage": "dpo", "step": s, "loss": v} for s, v in steps]
    assert lines(run_dir, rows) == [(1, 0.9), (2, 0.81), (3, 0.71), (4, 0.6)]


def test_a_repeated_run_replaces_a_longer_one(fresh: Build) -> None:
    run_dir = fresh(until="dpo")
    rows: list[dict[str, object]] = [{"stage": "dpo", "step": s, "loss": 1.0} for s in range(1, 50)]
    rows += [{"stage": "dpo", "step": s, "loss": 0.5} for s in range(1, 4)]
    assert lines(run_dir, rows) == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_validation_and_training_lines_of_one_step_both_stay(fresh: Build) -> None:
    run_dir = fresh(until="dpo")
    rows: list[dict[str, object]] = [
        {"stage": "dpo", "step": 1, "loss": 1.0},
        {"stage": "dpo", "step": 1, "validation_loss": 1.1},
        {"stage": "dpo", "step": 2, "loss": 0.9},
    ]
    assert lines(run_dir, rows) == [(1, 1.0), (1, 1.1), (2, 0.9)]


def test_categories_are_told_from_settings_before_a_stage_has_run(
    fresh: Build, whole: Path
) -> None:
    waiting = {s.name: s.category for s in load_run(fresh(until="seeds")).stages}
    assert waiting == {s.name: s.category for s in load_run(whole).stages}


def test_folders_that_the_recipe_does_not_know_are_told(fresh: Build) -> None:
    run_dir = fresh()
    (run_dir / "03-pairs").rename(run_dir / "03-older")
    run = load_run(run_dir)
    assert any("older" in note for note in run.notes)
    assert not run.stage("pairs").done  # type: ignore[union-attr]


def test_an_unfinished_folder_is_no_output(fresh: Build) -> None:
    run_dir = fresh()
    (run_dir / "15-dpo" / "key.json").unlink()
    assert not load_run(run_dir).stage("dpo").done  # type: ignore[union-attr]


def test_samples_are_spread_and_lengths_are_words(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(i),
            "messages": [{"role": "user", "content": "one  two\nthree"}] * (i % 2 + 1),
            "meta": "{}",
        }
        for i in range(100)
    ]
    write_parquet(tmp_path / "rows.parquet", rows)
    found = read_rows(tmp_path / "rows.parquet", 4)
    assert [row["id"] for row in found.samples] == ["12", "37", "62", "87"]
    assert (found.num, found.lengths[:2]) == (100, [3, 6])


def test_large_sets_are_read_in_part(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "rows.parquet", [{"id": str(i), "meta": "{}"} for i in range(MAX_READ + 500)]
    )
    found = read_rows(tmp_path / "rows.parquet", 2)
    assert (found.num, len(found.lengths), len(found.samples)) == (MAX_READ + 500, MAX_READ, 2)


def test_spaced_meta_and_words() -> None:
    assert spaced(3, 4) == {0, 1, 2}
    assert spaced(0, 4) == set()
    assert meta({"meta": json.dumps({"a": 1})}) == {"a": 1}
    assert meta({"meta": "[1]"}) == {"meta": [1]}
    assert (
        num_words(
            {
                "prompt": [{"content": "a b"}],
                "chosen": [{"content": "c"}],
                "rejected": [{"content": "x y z"}],
            }
        )
        == 3
    )
