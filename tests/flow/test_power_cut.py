"""The order in which a finished output reaches the disk: a key never stands beside what a power cut
could tear."""

from pathlib import Path

import pytest

from bezoar.evals.outcome import Outcome, write_outcome
from bezoar.evals.stats import Score
from bezoar.flow.rundir import RunDir
from bezoar.io import atomic_dir, write_json
from bezoar.parquet import write_parquet
from bezoar.references import stage_folders
from tests.helpers.disk import durable, recorded, the_rename


def test_a_key_reaches_the_disk_after_all_it_vouches_for_and_before_its_folder_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    for _ in range(2):  # the second output takes the place of the first
        with recorded(monkeypatch) as events, run.output("made", 7, {"key": "k"}) as out:
            write_parquet(out / "rows.parquet", [{"id": "1"}])
            (out / "adapter").mkdir()
            # written by a library that syncs nothing
            (out / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        key, placed = (
            the_rename(events, run.path / ".partial-07-made" / "key.json"),
            the_rename(events, run.path / "07-made"),
        )
        before_key, before_name = durable(events[:key]), durable(events[:placed])
        whole = events[placed][2]
        assert {
            "rows.parquet",
            "adapter",
            "adapter/adapter_model.safetensors",
            "key.json",
            ".",
        } <= whole.keys()
        assert {name for name, state in whole.items() if state not in before_key} <= {
            "key.json",
            ".",
        }
        assert not {name for name, state in whole.items() if state not in before_name}
        assert str(run.path) in [path for what, path, _ in events[placed:] if what == "fsync"]
    assert [path.name for path in run.path.iterdir()] == ["07-made"]


def test_an_old_output_goes_away_at_once_and_never_by_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    with run.output("made", 1, {"key": "old"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "1"}])
    with recorded(monkeypatch) as events, run.output("made", 2, {"key": "new"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "2"}])
    gone = next(
        i for i, (what, _, _) in enumerate(events) if what == f"rename {run.path / '01-made'}"
    )
    assert events[gone][2].keys() == {".", "rows.parquet", "key.json"}
    assert gone < the_rename(events, run.path / "02-made")
    assert run.stored("made")["key"] == "new"
    assert [name for name, _ in stage_folders(run.path)] == ["made"]


def test_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"one", b"two"):
        with recorded(monkeypatch) as events, atomic_dir(tmp_path / "merged") as work:
            (work / "deep").mkdir()
            (work / "deep" / "weights").write_bytes(content)
            write_json(work / "config.json", {})
        placed = the_rename(events, tmp_path / "merged")
        assert not set(events[placed][2].values()) - durable(events[:placed])
        assert str(tmp_path) in [path for what, path, _ in events[placed:] if what == "fsync"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_scores_never_stand_beside_the_items_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (0.0, 1.0):
        outcome = Outcome(
            [Score("acc", value, 0.0, 1.0, 1)], [{"benchmark": "acc", "id": "1", "value": value}]
        )
        with recorded(monkeypatch) as events:
            write_outcome(tmp_path, "m", outcome)
        items, scores = (
            the_rename(events, tmp_path / "items.jsonl"),
            the_rename(events, tmp_path / "scores.json"),
        )
        assert items < scores
        folders = [
            states[str(tmp_path)][2]
            for what, path, states in events[:scores]
            if what == "fsync" and path == str(tmp_path)
        ]
        assert folders
        assert not any("scores.json" in names for names in folders)


@pytest.mark.parametrize("when", ["before the new has its name", "before the old is gone"])
def test_a_kill_between_two_renames_loses_no_output(tmp_path: Path, when: str) -> None:
    run = RunDir(tmp_path / "run")
    with run.output("made", 1, {"key": "new"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "2"}])
    if when == "before the new has its name":
        (run.path / "01-made").rename(run.path / ".partial-01-made")
    (run.path / ".old-01-made").mkdir()
    (run.path / ".old-01-made" / "rows.parquet").write_bytes(b"")
    run.recover()
    assert run.stored("made")["key"] == "new"
    assert [path.name for path in run.path.iterdir()] == ["01-made"]


def test_a_stage_after_the_ninety_ninth_is_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    for number, name in ((1, "a"), (99, "b"), (100, "c"), (101, "2-c"), (1000, "d")):
        with run.output(name, number, {"key": name}) as out:
            write_parquet(out / "rows.parquet", [{"id": name}])
    assert [run.stored(name)["key"] for name in ("a", "b", "c", "2-c", "d")] == [
        "a",
        "b",
        "c",
        "2-c",
        "d",
    ]
    assert [name for name, _ in stage_folders(run.path)] == ["a", "b", "c", "2-c", "d"]
    assert run.stage_dir("100-c") is None
    with run.output("c", 5, {"key": "again"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "c"}])
    assert not (run.path / "100-c").exists()


def test_a_linked_output_is_read_and_its_target_never_removed(tmp_path: Path) -> None:
    run, elsewhere = RunDir(tmp_path / "run"), tmp_path / "other-disk"
    with run.output("made", 1, {"key": "old"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "1"}])
    (run.path / "01-made").rename(elsewhere)
    (run.path / "01-made").symlink_to(elsewhere)
    (run.path / ".partial-02-kept").symlink_to(elsewhere)
    (run.path / ".work-made-x").symlink_to(elsewhere)
    assert run.stored("made")["key"] == "old"
    with run.output("made", 1, {"key": "new"}) as out:
        write_parquet(out / "rows.parquet", [{"id": "2"}])
    assert sorted(path.name for path in elsewhere.iterdir()) == ["key.json", "rows.parquet"]
    assert run.stored("made")["key"] == "new"
    assert not (run.path / "01-made").is_symlink()
