"""Stages that ask language models a part of their rows at a time: the rows, the bill and the
questions of a whole stage, and only a part in memory."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat
from bezoar.parquet import read_parquet
from tests.helpers.command import ended
from tests.helpers.rows import plant_judged
from tests.helpers.server import answer, serving

NUM, PART = 60, 7
RECIPE = """
name: toy
backends:
  judge: {kind: endpoint, url: URL, model: m, retries: 0, concurrency: 4,
    prices: {input_usd_per_million: 1.0, output_usd_per_million: 3.0}}
stages:
  seeds: {kind: jsonl, path: rows.jsonl}
  kept: {kind: filter, rows: seeds, judge: judge, rubric: rubric.txt}
"""


def judged(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
    """A verdict by the row, and sometimes none."""
    number = int(body["messages"][0]["content"].split("number ")[1].split("?")[0])
    return answer(("Accept: fine", "Reject: poor", "Accept: good", "Well.")[number % 4])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plant_judged(tmp_path, NUM, "rubric")
    return tmp_path


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bezoar.stage.PART_ROWS", PART)


def run(folder: Path, url: str, recipe: str = RECIPE) -> tuple[int, str]:
    (folder / "toy.yaml").write_text(recipe.replace("URL", url))
    return ended("run", "toy.yaml")


def stage(folder: Path, name: str) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """A stage's rows, those that it left out, and its statistics without times."""
    (out,) = (folder / "runs" / "toy").glob(f"*-{name}")
    stats = json.loads((out / "stats.json").read_text())
    for counts in (stats, stats["calls"], *stats["models"].values()):
        counts.pop("seconds")
    left_out = sorted(read_parquet(out / "rejected.parquet"), key=lambda row: str(row["id"]))
    return (out / "rows.parquet").read_bytes(), left_out, stats


def num_calls(folder: Path) -> int:
    """How often the pool of a language model was asked."""
    lines = (folder / "runs" / "toy" / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("event") == "replies" for line in lines)


def test_a_judge_in_parts_gives_what_it_gives_of_all_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(judged) as server:
        assert run(folder, server.url)[0] == 0
        whole, whole_calls = stage(folder, "kept"), num_calls(folder)
        asked = server.seen.copy()
        shutil.rmtree(folder / "runs")
        server.seen.clear()
        monkeypatch.setattr("bezoar.stage.PART_ROWS", PART)
        assert run(folder, server.url)[0] == 0
        assert server.seen == asked
    assert stage(folder, "kept") == whole
    # with the second question to each judge that wrote no verdict
    assert (whole_calls, num_calls(folder)) == (2, 2 * -(-NUM // PART))


@pytest.mark.usefixtures("parts")
def test_a_judge_holds_the_rows_of_a_part(folder: Path) -> None:
    most = 0

    def counting(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        nonlocal most
        rows = [one for one in gc.get_objects() if isinstance(one, Chat)]
        most = max(most, sum(row.id.startswith("rows") for row in rows))
        return judged(body, seen)

    with serving(counting) as server:
        assert run(folder, server.url)[0] == 0
    assert PART <= most <= 3 * PART


@pytest.mark.usefixtures("parts")
def test_a_part_that_fails_leaves_what_was_answered(folder: Path) -> None:
    down = [True]

    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        fails = down[0] and "number 10?" in body["messages"][0]["content"]
        return (500, {}, "oops") if fails else answer("Accept: fine")

    with serving(some) as server:
        code, said = run(folder, server.url)
        assert code == 3, said
        assert sum(server.seen.values()) == 2 * PART
        down[0] = False
        assert run(folder, server.url)[0] == 0
        assert sum(server.answered.values()) == NUM
        assert sum(server.seen.values()) == NUM + 1
    _, _, stats = stage(folder, "kept")
    assert stats["rows_out"] == stats["calls"]["asked"] == NUM
    assert stats["calls"]["from_journal"] == 2 * PART - 1


@pytest.mark.usefixtures("parts")
def test_a_share_is_taken_of_all_rows(folder: Path) -> None:
    def scored(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        number = int(body["messages"][0]["content"].split("number ")[1].split("?")[0])
        top = [
            {"token": token, "logprob": value}
            for token, value in ((" Accept", -0.1), (" Reject", -number))
        ]
        content = [{"token": " Accept", "logprob": -0.1, "top_logprobs": top}]
        return answer(" Accept", logprobs={"content": content})

    recipe = RECIPE.replace("rubric.txt}", "rubric.txt, verdict: logprob, keep_share: 0.25}")
    with serving(scored) as server:
        code, said = run(folder, server.url, recipe)
        assert code == 0, said
    assert num_calls(folder) == 1
    (out,) = (folder / "runs" / "toy").glob("*-kept")
    kept = [str(row["messages"]) for row in read_parquet(out / "rows.parquet")]
    best = range(NUM - NUM // 4, NUM)
    assert len(kept) == NUM // 4
    assert all(f"number {number}?" in text for number, text in zip(best, kept, strict=True))
