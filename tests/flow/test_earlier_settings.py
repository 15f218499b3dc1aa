"""A run that stops after its settings changed: older output is not told as theirs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bezoar.report.run import load_run
from tests.helpers.command import ended
from tests.helpers.rows import plant_judged
from tests.helpers.server import Server, answer, serving

# a request may cost 0.04 USD and more, and costs 0.01: 20 tokens at most, 5 written
RECIPE = """
name: toy
budget_usd: 5.0
backends:
  judge: {kind: endpoint, url: "URL", model: m, key_env: SOME_KEY, concurrency: 1,
    prices: {input_usd_per_million: 0, output_usd_per_million: 2000}}
stages:
  rows: {kind: jsonl, path: rows.jsonl}
  made: {kind: filter, rows: rows, judge: judge, rubric: rubric.txt, max_tokens: 20}
  kept: {kind: form, rows: made, max_words: 100}
"""
OTHER = ("max_tokens: 20", "max_tokens: 21")
NONE = ("max_words: 100", "max_words: 1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plant_judged(tmp_path, 4, "rubric")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    def judge(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return answer("Reject: dull" if body["max_tokens"] == 22 else "Accept: fine")

    with serving(judge) as found:
        yield found


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SOME_KEY", "a-key-of-some-length")


def run(folder: Path, server: Server, *changes: tuple[str, str]) -> tuple[int, str]:
    text = RECIPE.replace("URL", server.url)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "toy.yaml").write_text(text)
    return ended("run", "toy.yaml")


def test_older_output_is_no_result_of_the_settings_of_a_run_that_stopped(
    folder: Path, server: Server
) -> None:
    code, said = run(folder, server)
    assert code == 0
    assert "The run kept 4 rows (kept)" in said
    assert "earlier settings" not in ended("rows", "runs/toy", "kept")[1]
    code, said = run(folder, server, OTHER, ("5.0", "0.041"))
    assert code == 3, said
    code, told = ended("report", "runs/toy")
    page = (folder / "runs" / "toy" / "report.html").read_text()
    for text in (said, told, page):
        assert "The run kept" not in text
        assert "This run is not finished: made and kept have no output yet." in text
        assert "Not shown: in the folder of made and kept is the output of earlier settings" in text
    assert "1 of 3" in page
    for stage in ("made", "kept"):
        code, said = ended("rows", "runs/toy", stage)
        assert code == 0
        first, *rows = said.splitlines()
        assert f"{stage}: this is the output of earlier settings" in first
        assert any("Answer 0." in line for line in rows)
    assert "earlier settings" not in ended("rows", "runs/toy", "rows")[1]
    # the settings of before are those of the output again, and the report says so
    code, said = run(folder, server)
    assert (code, "The run kept 4 rows (kept)" in said) == (0, True)
    assert "The run kept 4 rows (kept)" in (folder / "runs" / "toy" / "report.html").read_text()


def test_rows_of_an_edited_recipe_are_told_apart_before_it_runs(
    folder: Path, server: Server
) -> None:
    assert run(folder, server)[0] == 0
    text = (folder / "toy.yaml").read_text()
    (folder / "toy.yaml").write_text(text.replace(*NONE))
    assert "earlier settings" in ended("rows", "toy.yaml", "kept")[1]
    assert "earlier settings" not in ended("rows", "toy.yaml", "made")[1]
    # rows can be read without what they were made of
    (folder / "rows.jsonl").unlink()
    code, said = ended("rows", "toy.yaml", "kept")
    assert (code, "Answer 0." in said, "earlier settings" in said) == (0, True, False)


def test_curves_of_earlier_settings_are_not_shown_until_the_stage_begins_anew(
    tmp_path: Path,
) -> None:
    from tests.helpers.small_run import SmallRun

    small = SmallRun(tmp_path / "toy", keys={"sft": "new"})
    small.train("sft", "tiny")
    small.curve("sft", [2.0, 1.0])
    shown = load_run(small.path)
    assert (shown.missing, shown.earlier, shown.metrics) == (["sft"], ["sft"], {})
    (small.path / ".work-sft-new").mkdir()
    assert "sft" in load_run(small.path).metrics


def test_a_stage_that_gave_nothing_is_told_with_its_reasons_and_what_to_change(
    folder: Path, server: Server
) -> None:
    assert run(folder, server)[0] == 0
    code, said = run(folder, server, NONE)
    assert code == 2
    page = (folder / "runs" / "toy" / "report.html").read_text()
    for text in (said, ended("report", "runs/toy")[1], page):
        assert "No row is left after kept" in text
        assert "kept: kept none of 4 rows (4 " in text
        assert ".partial-03-kept/failures.jsonl, then change the stage or what it reads." in text
        assert "ame command again" not in text
        assert "The run kept" not in text
    [record] = [stage for stage in load_run(folder / "runs" / "toy").stages if not stage.done]
    assert len(record.failures) == 4
    assert record.failures[0]["id"] in page.partition('id="failures"')[2]
    code, said = run(folder, server)
    assert (code, "The run kept 4 rows (kept)" in said) == (0, True)
