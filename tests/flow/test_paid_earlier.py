"""Money for replies that no output rests on any more: where it is told, and what divides it."""

import json
from pathlib import Path

import pytest

from bezoar.cost import cents
from bezoar.io import write_json
from bezoar.llm.journal import Journal
from bezoar.report.decision import decide
from bezoar.report.formatting import usd
from bezoar.report.load_scores import load_scoreboard
from bezoar.report.run import load_run
from bezoar.report.sections.bill import bill, money
from tests.flow.test_budget_run import bezoar, folder, server
from tests.helpers.server import Server
from tests.helpers.small_run import SmallRun

__all__ = ["folder", "server"]


def spent(folder: Path) -> float:
    with Journal(folder / "runs" / "journal.sqlite") as journal:
        return journal.spent_usd("toy")


def test_what_was_paid_before_the_settings_changed_is_told(folder: Path, server: Server) -> None:
    run = folder / "runs" / "toy"
    assert bezoar(folder, server, "run")[0] == 3
    first = spent(folder)
    assert first > 0.05
    # other answers are asked for, and nothing is left for them
    changed = ("rubric: one.txt, max_tokens: 20", "rubric: one.txt, max_tokens: 21")
    code, said = bezoar(folder, server, "run", changed)
    assert (code, spent(folder)) == (3, first)
    shown = load_run(run)
    assert money(shown) == pytest.approx(first)
    assert f"{usd(first)}, " in said
    page = (run / "report.html").read_text()
    assert "Nothing was paid for" not in page
    assert f"{usd(first)}. It is in the total and counts against the budget" in page
    assert decide(shown, load_scoreboard(shown)).sentence.count(usd(first)) == 1
    _, said = bezoar(folder, server, "plan", changed)
    assert f"Spent already: {cents(first)} USD." in said
    assert "the budget is expected to end in first" in said
    # once the stages are done, old and new money together are what the budget counts
    assert bezoar(folder, server, "run", changed, ("0.105", "5.0"))[0] == 0
    assert money(load_run(run)) == pytest.approx(spent(folder))
    assert spent(folder) > first + 0.2
    # a further run pays nothing, and shows what its rows have cost
    changes = (changed, ("0.105", "5.0"), ("name: toy", "name: other"))
    assert bezoar(folder, server, "run", *changes)[0] == 0
    assert money(load_run(folder / "runs" / "other")) == pytest.approx(24 * 0.01)


def test_a_journal_that_cannot_be_read_is_told(folder: Path, server: Server) -> None:
    bezoar(folder, server, "run", ("0.105", "5.0"))
    (folder / "runs" / "journal.sqlite").write_bytes(b"no journal" * 1000)
    for more in ("-wal", "-shm"):
        (folder / "runs" / f"journal.sqlite{more}").unlink(missing_ok=True)
    shown = load_run(folder / "runs" / "toy")
    assert money(shown) == pytest.approx(0.24)
    assert any("the journal cannot be read" in note.lower() for note in shown.notes)


def test_rows_of_the_user_have_no_price(tmp_path: Path) -> None:
    run = SmallRun(tmp_path / "toy")
    run.add("seeds", {"kind": "hh_rlhf"}, rows_out=93)
    made = run.add("made", {"kind": "lamini", "seeds": "seeds"}, done=False)
    partial = made.with_name(f".partial-{made.name}")
    partial.mkdir()
    write_json(
        partial / "stats.json", {"seconds": 1.0, "unfinished": "x", "calls": {"cost_usd": 0.0014}}
    )
    run.add("kept", {"kind": "filter", "rows": "made"}, done=False)
    shown = load_run(run.path)
    sentence = decide(shown, load_scoreboard(shown)).sentence
    assert sentence == "93 rows were read (seeds), and none was made yet; $0.0014, 1 second."
    # a stage that is not done adds nothing to the price of the rows before it
    (partial / "stats.json").unlink()
    partial.rmdir()
    run = SmallRun(tmp_path / "more")
    run.add("seeds", {"kind": "hh_rlhf"}, rows_out=93)
    calls = {"asked": 10, "cost_usd": 0.01}
    run.add("made", {"kind": "lamini", "seeds": "seeds"}, rows_out=10, calls=calls)
    left = run.add("kept", {"kind": "filter", "rows": "made"}, done=False)
    partial = left.with_name(f".partial-{left.name}")
    partial.mkdir()
    write_json(
        partial / "stats.json", {"seconds": 1.0, "unfinished": "x", "calls": {"cost_usd": 0.5}}
    )
    shown = load_run(run.path)
    sentence = decide(shown, load_scoreboard(shown)).sentence
    assert sentence == "The run kept 10 rows (made); $0.0010 a kept row; $0.51, 1 second."
    assert bill(shown) is not None


def test_a_run_without_models_says_nothing_of_scores(folder: Path, server: Server) -> None:
    code, said = bezoar(folder, server, "run", ("0.105", "5.0"))
    assert code == 0
    assert "scored" not in said
    assert json.loads((folder / "runs" / "toy" / "resolved.json").read_text())["name"] == "toy"
