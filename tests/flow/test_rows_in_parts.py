"""Stages that ask language models a part of their rows at a time: the rows, the bill and the
questions of a whole stage, and only a part in memory."""

import gc
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Dropped, as_chats
from bezoar.data.flan import Flan
from bezoar.data.row_order import in_order
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_jsonl
from bezoar.llm.types import Reply, Request
from bezoar.parquet import read_parquet
from bezoar.rng import rng_for
from bezoar.synth.orca import Orca
from tests.helpers.batch_server import serving_batches
from tests.helpers.command import ended
from tests.helpers.rows import chats, plant_judged
from tests.helpers.server import Behaviour, answer, serving

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


class Counting:
    """A server's behaviour that counts the rows in memory, now and then."""

    def __init__(self, behaviour: Behaviour, ids: str) -> None:
        self.behaviour, self.ids, self.most, self.num = behaviour, ids, 0, 0

    def __call__(self, body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        self.num += 1
        if self.num % 5 == 0:
            rows = [one for one in gc.get_objects() if isinstance(one, Chat)]
            self.most = max(self.most, sum(row.id.startswith(self.ids) for row in rows))
        return self.behaviour(body, seen)


@pytest.mark.usefixtures("parts")
def test_a_judge_holds_the_rows_of_a_part(folder: Path) -> None:
    counting = Counting(judged, "rows")
    with serving(counting) as server:
        assert run(folder, server.url)[0] == 0
    assert PART <= counting.most <= 3 * PART


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
        planned = next(
            line for line in ended("plan", "toy.yaml")[1].splitlines() if "to run" in line
        )
        assert planned.split()[-3] == str(NUM - 2 * PART + 1), "of all parts"
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


@pytest.mark.usefixtures("parts")
def test_what_comes_in_batches_is_asked_for_at_once(folder: Path) -> None:
    recipe = RECIPE.replace("retries: 0,", "retries: 0, batch: {poll_s: 0.1},")
    reply = json.loads(answer("Accept: fine")[2])
    with serving_batches(lambda prompt, seen: (200, reply), polls=0) as server:
        code, said = run(folder, server.url, recipe)
        assert code == 0, said
    assert len(server.batches) == 1
    assert sum(server.bought.values()) == NUM


ORCA = """
name: toy
backends:
  teacher: {kind: endpoint, url: URL, model: m, retries: 0, concurrency: 4}
stages:
  tasks: {kind: flan, path: PATH, per_submix: 60}
  made: {kind: orca, seeds: tasks, teacher: teacher, num_rows: 70, niv2_per_task: 2, max_prompt_tokens: 300,
    shares: {t0: 2, cot: 1, niv2: 1, flan2021: 0}, answers: {temperature: 1.0}}
"""  # noqa: E501


def spoken(text: str, seed: int) -> str:
    """An answer by what was asked; with some seeds there is none."""
    return "" if seed % 4 == 0 else f"{len(text)} letters, {seed}"


@pytest.mark.skipif("BEZOAR_DATA" not in os.environ, reason="BEZOAR_DATA has the FLAN tasks")
@pytest.mark.usefixtures("parts")
def test_orca_in_parts_draws_and_writes_what_it_does_of_a_list(folder: Path) -> None:
    def teacher(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return answer(spoken(body["messages"][-1]["content"], body["seed"]))

    counting, asked = Counting(teacher, ""), list[Request]()
    with serving(counting) as server:
        path = Path(os.environ["BEZOAR_DATA"]) / "flan"
        code, said = run(folder, server.url, ORCA.replace("PATH", str(path)))
        assert code == 0, said
    made, recipe = RunDir(folder / "runs" / "toy"), load_recipe(folder / "toy.yaml")
    scheme, seeds = recipe.stages["made"], made.items("tasks")
    assert isinstance(scheme, Orca)

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        return [Reply(spoken(one.messages[-1].content, one.seed)) for one in requests]

    whole = scheme.generate(as_chats(seeds), ask, seed=recipe.seed)
    assert made.items("made") == whole.rows
    failures = made.output_dir("made") / "failures.jsonl"
    assert [Dropped(**row) for _, row in read_jsonl(failures)] == whole.dropped
    assert {dropped.reason for dropped in whole.dropped} == {"too long", "empty"}
    assert sum(server.seen.values()) == len(asked) > 70
    assert len(seeds) > 100
    assert PART <= counting.most <= 4 * PART


def drawn_from_lists(seeds: Sequence[Chat], name: str, num: int) -> list[Chat]:
    """The rows of a sub-mix as they are drawn from lists of them."""
    rng, tasks = rng_for(3, "tasks", name), dict[str, list[Chat]]()
    for row in seeds:
        if row.meta["submix"] == name and len(row.prompt[-1].content) <= 6000:
            tasks.setdefault(row.meta["task_name"], []).append(row)
    for rows in tasks.values():
        rng.shuffle(rows)
    names, drawn = list(tasks), list[Chat]()
    while names and len(drawn) < num:
        index = rng.randrange(len(names))
        drawn.append(tasks[names[index]].pop())
        if not tasks[names[index]]:
            names[index] = names[-1]
            names.pop()
    return drawn


@pytest.mark.skipif("BEZOAR_DATA" not in os.environ, reason="BEZOAR_DATA has the FLAN tasks")
def test_places_are_drawn_as_rows_are() -> None:
    seeds = Flan(str(Path(os.environ["BEZOAR_DATA"]) / "flan"), limit=400).load().rows
    name = seeds[0].meta["submix"]
    scheme = Orca("tasks", "teacher", 150, shares={name: 1.0})
    made = scheme.generate(seeds, lambda all_: [Reply("Fine.") for _ in all_], seed=3)
    assert [row.meta["seed"] for row in made.rows] == [
        row.id for row in drawn_from_lists(seeds, name, 150)
    ]


def test_rows_that_are_read_once_come_in_another_order(tmp_path: Path) -> None:
    rows, order = chats(50), [31, 2, 49, 0, 17, 16]
    expected = [rows[place] for place in order]
    assert list(in_order(rows, order)) == expected
    assert list(in_order(iter(rows), order, tmp_path)) == expected
    assert list(in_order(iter(rows), [], tmp_path)) == []
    assert not list(tmp_path.iterdir())
