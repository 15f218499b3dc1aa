"""The bill against the server's own count, the meter, machines that cost by the hour, and what a
quote learns from what was paid before."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bezoar.flow.recipe import load_recipe
from bezoar.llm.budget import REFUSED, Budget
from bezoar.llm.journal import Journal
from bezoar.llm.local import Local
from bezoar.llm.pool import Pool
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from bezoar.report.run import load_run
from bezoar.report.sections.bill import by_model, money
from tests.helpers.command import ended
from tests.helpers.questions import question
from tests.helpers.rows import plant_judged
from tests.helpers.server import answer, serving

IN, OUT = 3.0, 15.0
RECIPE = """
name: toy
backends:
  one: &priced {kind: endpoint, url: "URL", model: first, concurrency: 4, backoff_s: 0.01,
    prices: {input_usd_per_million: 3, output_usd_per_million: 15}}
  two: {<<: *priced, model: second}
stages:
  rows: {kind: jsonl, path: rows.jsonl, limit: 16}
  first: &judged {kind: filter, rows: rows, judge: one, rubric: one.txt, max_tokens: 200}
  again: {<<: *judged, rows: first, judge: two, rubric: two.txt}
"""


class Billed:
    """A server that counts the tokens of what it answered, by model; every fifth request is sent
    away with 429."""

    def __init__(self) -> None:
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        text = body["messages"][-1]["content"]
        if not seen and len(text) % 5 == 0:
            return 429, {}, "{}"
        say = "Reject: odd" if body["model"] == "first" and "number 7" in text else "Accept: fine"
        status, headers, reply = answer(say)
        table = json.loads(reply)
        usage = {"prompt_tokens": 100 + len(text) % 17, "completion_tokens": 5 + len(text) % 7}
        with self.lock:
            for side, num in usage.items():
                self.tokens[body["model"], side] += num
        return status, headers, json.dumps({**table, "usage": usage})

    def usd(self, *models: str) -> float:
        """What the tokens of these models cost."""
        prices = {"prompt_tokens": IN, "completion_tokens": OUT}
        return sum(
            num * prices[side] / 1e6
            for (model, side), num in self.tokens.items()
            if model in models
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plant_judged(tmp_path, 40, "one", "two")
    return tmp_path


def bezoar(folder: Path, url: str, verb: str, *changes: tuple[str, str]) -> str:
    text = RECIPE.replace("URL", url)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "toy.yaml").write_text(text)
    code, said = ended(*verb.split(), "toy.yaml")
    assert code == 0, said
    return said


def line(said: str, stage: str) -> str:
    [found] = [line for line in said.splitlines() if line.strip().startswith(f"{stage}  ")]
    return found


def test_the_bill_is_the_servers_tokens_times_price(folder: Path) -> None:
    billed = Billed()
    with serving(billed) as server:
        bezoar(folder, server.url, "run")
    run = load_run(folder / "runs" / "toy")
    whole = billed.usd("first", "second")
    with Journal(folder / "runs" / "journal.sqlite") as journal:
        assert journal.spent_usd("toy") == pytest.approx(whole, abs=1e-12)
        assert journal.spent_usd("toy", "again") == pytest.approx(billed.usd("second"), abs=1e-12)
    assert money(run) == pytest.approx(whole, abs=2e-6)
    for stage, model, backend in (("first", "first", "one"), ("again", "second", "two")):
        record = run.stage(stage)
        assert record
        assert record.calls["cost_usd"] == pytest.approx(billed.usd(model), abs=1e-6)
        assert record.stats["models"][backend]["cost_usd"] == record.calls["cost_usd"]
        assert record.calls["prompt_tokens"] == billed.tokens[model, "prompt_tokens"]
    assert [row[0] for row in by_model(run)] == ["one: first", "two: second"]
    assert "By language model" in (folder / "runs" / "toy" / "report.html").read_text()


def test_a_quote_learns_from_what_was_answered_and_kept(folder: Path) -> None:
    billed = Billed()
    with serving(billed) as server:
        before = line(bezoar(folder, server.url, "plan"), "first")
        assert "(" in before  # a guess of tokens and money, within wide limits
        bezoar(folder, server.url, "run")
        each_usd = billed.usd("first") / 16
        # ten rows more: ten requests of the same size, of which as many are kept as before
        said = bezoar(folder, server.url, "plan", ("limit: 16", "limit: 26"))
    now = line(said, "first")
    expected, low, high = map(float, re.findall(r"[.\d]+", " ".join(now.split()[-2:])))
    assert expected == pytest.approx(10 * each_usd, rel=0.03)
    assert low <= expected <= high < 1.2 * expected
    assert " 10 " in now
    kept = 26 * 15 / 16
    assert f"{kept:.0f} (" in now


@dataclass
class Slow:
    """Answers four at a time, each group in a twentieth of a second."""

    usd_per_hour: float = 3600.0
    identity: str = "slow"

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        return [list(range(i, min(i + 4, len(requests)))) for i in range(0, len(requests), 4)]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        time.sleep(0.05)
        yield [(i, Reply("yes", completion_tokens=1)) for i in range(len(requests))]


def test_a_machine_by_the_hour_is_on_the_bill_and_ends_with_the_budget(tmp_path: Path) -> None:
    questions = [question(str(i)) for i in range(20)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        budget = Budget(0.08, journal, run="toy")
        pool = Pool(Slow(), journal, budget, Progress("s"), stage="s")
        replies = pool.ask(questions)
        done = [reply for reply in replies if reply.text]
        # a second costs a dollar: two groups pass the limit, by no more than the group in flight
        assert len(done) == 8
        assert {reply.error for reply in replies[8:]} == {REFUSED}
        assert 0.1 <= journal.spent_usd("toy") < 0.08 + 0.2
        assert pool.counts()["cost_usd"] == pytest.approx(journal.spent_usd("toy"), abs=1e-6)
        assert budget.meter() == f" ({journal.spent_usd('toy'):.2f} of 0.08 spent)"


def test_what_an_hour_costs_changes_no_key(folder: Path) -> None:
    assert Local("m", usd_per_hour=2.0).identity == Local("m").identity
    assert Local("m", usd_per_hour=2.0).open().usd_per_hour == 2.0  # type: ignore[attr-defined]
    (folder / "toy.yaml").write_text(
        "name: toy\nbudget_usd: 1\nbackends: {one: {kind: local, model: m, usd_per_hour: 2}}\n"
        "stages: {rows: {kind: jsonl, path: rows.jsonl}, first: {kind: filter, rows: rows,"
        " judge: one}}\n"
    )
    assert load_recipe(folder / "toy.yaml").budget_usd == 1
