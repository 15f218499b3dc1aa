"""Whole runs against a server that refuses, fails or leaks: what is finished, what is not, and what
the same command then does."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import ended
from tests.helpers.rows import plant_judged
from tests.helpers.server import Server, answer, serving

RECIPE = """
name: toy
backends:
  judge: {kind: endpoint, url: URL, model: m, key_env: SOME_KEY, retries: 0, concurrency: 4}
stages:
  seeds: {kind: jsonl, path: rows.jsonl}
  kept: {kind: filter, rows: seeds, judge: judge, rubric: rubric.txt}
"""
KEY = "sk-Zx9Cv8Bn7Mq6We5Rt4Yu3Io2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plant_judged(tmp_path, 30, "rubric")
    return tmp_path


def run(folder: Path, server: Server) -> tuple[int, str]:
    (folder / "toy.yaml").write_text(RECIPE.replace("URL", server.url))
    return ended("run", "toy.yaml", SOME_KEY=KEY + "\n")


def keys(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "runs" / "toy").glob("*/key.json"))


def test_a_server_that_wants_money_leaves_the_stage_unfinished(folder: Path) -> None:
    paid: list[bool] = []
    with serving(
        lambda body, seen: answer("Accept: fine") if paid else (402, {}, f"pay first, {KEY}")
    ) as server:
        code, said = run(folder, server)
        assert code == 3
        assert "402" in said
        assert "the same command" in said
        assert keys(folder) == ["01-seeds"]
        paid.append(True)
        code, said = run(folder, server)
        assert code == 0, said
        assert said.startswith("1 of 2 stages are done; it goes on with kept\n02 kept: ")
        assert keys(folder) == ["01-seeds", "02-kept"]
    everything = b"".join(p.read_bytes() for p in (folder / "runs").rglob("*") if p.is_file())
    assert KEY[:8].encode() not in everything
    assert KEY[:8] not in said


def test_some_that_fail_for_now_leave_the_stage_unfinished_and_are_asked_alone(
    folder: Path,
) -> None:
    down = [True]

    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        hit = down[0] and any(f"Answer {i}." in body["messages"][-1]["content"] for i in (4, 17))
        return (500, {}, "oops") if hit else answer("Accept: fine")

    with serving(some) as server:
        assert run(folder, server)[0] == 3
        first = sum(server.seen.values())
        down[0] = False
        assert run(folder, server)[0] == 0
        assert (first, sum(server.seen.values())) == (30, 32)


def test_rows_that_are_refused_for_good_are_counted_and_the_stage_ends(folder: Path) -> None:
    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (
            (400, {}, "no")
            if any(f"Answer {i}." in body["messages"][-1]["content"] for i in range(13))
            else answer("Accept: fine")
        )

    with serving(some) as server:
        code, said = run(folder, server)
        assert code == 0, said
        assert "kept: 17 rows of 30" in said
        again, asked = run(folder, server), sum(server.seen.values())
    assert (again[0], asked) == (0, 30)


def test_a_stage_that_keeps_nothing_is_no_success(folder: Path) -> None:
    with serving(lambda body, seen: answer("Reject: dull")) as server:
        code, said = run(folder, server)
        assert code == 2
        assert "kept none of 30 rows (30 reject)" in said.replace("\n", " ")
        assert "then change the stage or what it reads" in said.replace("\n", " ")
        assert keys(folder) == ["01-seeds"]


def test_a_judge_without_a_verdict_is_what_is_to_be_changed(folder: Path) -> None:
    with serving(lambda body, seen: answer("The record ends here. " * 9, "length")) as server:
        code, said = run(folder, server)
    assert code == 2
    said = said.replace("\n", " ")
    assert "kept none of 30 rows (30 unparsed)" in said
    fix = "then name a judge that writes verdicts in place of judge, or set verdict: logprob"
    # in the advice of the report and in the error
    assert said.count(fix) == 2
