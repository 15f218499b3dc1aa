"""`num_rows: {accepted: N}`: waves through scheme, checks, near duplicates and judge, over HTTP."""

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.budgets import where_it_ends
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import content_hash
from bezoar.llm.journal import Journal
from bezoar.synth.accepted import Accepted, next_wave
from bezoar.synth.cited_answers import CitedAnswers
from bezoar.synth.evol_instruct import EvolInstruct
from bezoar.synth.json_mode import JSONMode
from bezoar.synth.lamini import LaMini
from bezoar.synth.orca import Orca
from bezoar.synth.tool_calls import ToolCalls
from tests.helpers.asked import Teacher, chat
from tests.helpers.command import ended
from tests.helpers.server import Server, answer, serving

RECIPE = """
name: toy
backends:
  teacher: &paid {kind: endpoint, url: "URL", model: a-teacher, concurrency: 8,
    prices: {input_usd_per_million: 0, output_usd_per_million: 2000}}
  judge: {<<: *paid, model: a-judge}
stages:
  seeds: {kind: dolly, path: "bezoar:instructions.jsonl", limit: 24}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: {accepted: 40},
    ask_for: 2, answers: {max_tokens: 20}}
  formed: {kind: form, rows: made, unfinished: false}
  different: {kind: dedup, rows: formed, near_duplicate: 0.9}
  kept: {kind: filter, rows: different, judge: judge, rubric: rubric.txt, max_tokens: 20}
"""
PRICE = 5 * 2000e-6  # the server says 5 tokens
CALM = "concurrency: 1, retries: 0"


def draw(text: str) -> float:
    """A number from 0 to 1 that follows from a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def world(rate: float) -> Any:
    """A server: lists of instructions of which one in ten is answered with a refusal, and a judge
    that accepts so many of the others that `rate` of all are."""

    def behave(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        text = body["messages"][-1]["content"]
        if body["model"] == "a-judge":
            name = re.findall(r"tell\w+", text)[0]
            return answer("Accept: good" if draw(name) < rate / 0.95 else "Reject: bad")
        if "<example>" in text:
            code = hashlib.sha256(str(body["seed"]).encode()).hexdigest()
            asks = (f"Write tell{code[i : i + 12]} w{code[20 + i : 32 + i]} now" for i in (0, 1))
            return answer("".join(f"<example>{ask}.</example>\n" for ask in asks))
        refuses = draw(f"refuse {text}") < 0.05
        return answer("Sorry, I cannot do that." if refuses else f"Here: {text[-12:]}")

    return behave


def plant(folder: Path, server: Server, *changes: tuple[str, str]) -> None:
    text = RECIPE.replace("URL", server.url)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "toy.yaml").write_text(text)
    (folder / "rubric.txt").write_text("Accept or Reject?\n{record}\n")


def rows(stage: str) -> list[Any]:
    return RunDir(Path("runs/toy")).items(stage)


def asked(server: Server) -> int:
    return sum(server.seen.values())


def asked_twice(server: Server) -> list[str]:
    counts = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    return [body for body, num in counts.items() if num > 1]


def stats(run: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in Path("runs", run).glob("*/stats.json")]


@pytest.mark.parametrize(("rate", "wanted"), [(0.9, 40), (0.3, 30), (0.03, 6)])
def test_exactly_as_many_as_are_wanted_for_hardly_more_requests_than_are_needed(
    rate: float, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(world(rate)) as server:
        plant(tmp_path, server, ("accepted: 40", f"accepted: {wanted}"))
        code, told = ended("run", "toy.yaml")
        assert code == 0, told
        assert f"{wanted} of {wanted} rows are accepted, of " in told
        assert len(rows("kept")) == wanted
        assert rows("kept")[-1].id == rows("made")[-1].id  # nothing behind the last one
        num = asked(server)
        assert not asked_twice(server)
        # each reply is on the bill of the stage that needs it, and all of them are paid once
        with Journal(Path("runs/journal.sqlite")) as journal:
            assert journal.spent_usd("toy") == pytest.approx(num * PRICE)
            assert sum(journal.spent_usd("toy", name) for name in ("made", "kept")) == (
                pytest.approx(num * PRICE)
            )
        # who knows how many are needed asks for these alone
        plant(tmp_path, server, ("{accepted: 40}", str(len(rows("made")))), ("toy", "best"))
        code, told = ended("run", "toy.yaml")
        assert code == 0, told
        assert f"kept: {wanted} rows" in told
        best = sum(stage["calls"]["asked"] for stage in stats("best") if "calls" in stage)
        assert asked(server) == num <= 1.15 * best


def test_waves_stay_close_to_what_is_needed() -> None:
    for wanted in (20, 100):
        for rate in (0.9, 0.3, 0.03):
            ratios = [ratio(wanted, rate, seed) for seed in range(40)]
            assert sum(ratios) / len(ratios) < 1.04
            assert max(ratios) < 1.15


def ratio(wanted: int, rate: float, seed: int) -> float:
    """What is tried for `wanted` rows, over what was needed."""
    rng, accepted, waves = random.Random(seed), list[bool](), 0
    while sum(accepted) < wanted:
        num = next_wave(len(accepted), sum(accepted), wanted - sum(accepted))
        accepted += [rng.random() < rate for _ in range(num)]
        waves += 1
    assert waves < 30
    needed = [i for i, is_one in enumerate(accepted, 1) if is_one][wanted - 1]
    return len(accepted) / needed


def test_a_kill_in_mid_wave_buys_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    running: list[subprocess.Popen[bytes]] = []
    behave, kill_at = world(0.5), [30]

    def deadly(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        if kill_at and len(server.bodies) == kill_at[0]:
            kill_at.pop()
            running[0].send_signal(signal.SIGKILL)
            return 200, {}, None
        return behave(body, seen)  # type: ignore[no-any-return]

    with serving(deadly) as server:
        plant(tmp_path, server, ("accepted: 40", "accepted: 12"), ("concurrency: 8", CALM))
        command = [sys.executable, "-c", "from bezoar.cli import main; main()", "run", "toy.yaml"]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        assert running[0].wait() == -signal.SIGKILL
        assert len(server.bodies) == 30
        code, told = ended("run", "toy.yaml")
        assert code == 0, told
        assert len(rows("kept")) == 12
        assert sum(server.answered.values()) == len(server.bodies) - 1
        assert asked_twice(server) == [json.dumps(server.bodies[29], sort_keys=True)]


def test_money_ends_the_waves_and_more_of_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(world(0.3)) as server:
        changes = (("accepted: 40", "accepted: 10"), ("ask_for: 2", "ask_for: 3"))
        plant(tmp_path, server, *changes, ("name: toy", "name: toy\nbudget_usd: 0.5"))
        code, told = ended("run", "toy.yaml")
        assert code == 3, told
        assert re.search(r"stage made: \d of 10 rows are accepted so far, and \d+ of ", told)
        assert "raise budget_usd" in told
        assert asked(server) * PRICE <= 0.5
        # the judge's own money bounds the judge, also while the scheme buys
        num = asked(server)
        limit = "name: toy\nbudget_usd: 9\nbudgets: {kept: 0.05}"
        plant(tmp_path, server, *changes, ("name: toy", limit))
        code, told = ended("run", "toy.yaml")
        assert (code, "raise budgets.kept" in told) == (3, True), told
        with Journal(Path("runs/journal.sqlite")) as journal:
            assert journal.spent_usd("toy", "kept") <= 0.06
        plant(tmp_path, server, *changes, ("name: toy", "name: toy\nbudget_usd: 9"))
        code, told = ended("run", "toy.yaml")
        assert (code, len(rows("kept"))) == (0, 10), told
        assert not asked_twice(server)
        assert asked(server) > num


def test_the_judge_does_not_spend_what_is_kept_for_the_scheme_that_buys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(world(0.3)) as server:
        limit = "name: toy\nbudget_usd: 9\nbudgets: {made: 8.9}"
        plant(tmp_path, server, ("accepted: 40", "accepted: 10"), ("name: toy", limit))
        code, told = ended("run", "toy.yaml")
        assert (code, "raise budget_usd" in told) == (3, True), told
        with Journal(Path("runs/journal.sqlite")) as journal:
            assert 0 < journal.spent_usd("toy", "kept") <= 0.1 + 1e-9
        # and the plan knows
        limit = "name: toy\nbudget_usd: 5\nbudgets: {made: 5}"
        plant(tmp_path, server, ("name: toy", limit))
        expected = {"made": 3.0, "kept": 0.5}
        assert where_it_ends(load_recipe(Path("toy.yaml")), expected, {"": 0.0}) == "kept"


def test_another_rubric_counts_anew_and_what_cannot_come_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(world(0.3)) as server:
        plant(tmp_path, server, ("{accepted: 40}", "{accepted: 5, most: 6}"))
        code, told = ended("run", "toy.yaml")
        assert code == 0, told
        assert "fewer rows than the 5 that were wanted: as many were tried as `most`" in told
        assert len(rows("made")) <= 6
        (tmp_path / "rubric.txt").write_text("Accept it or Reject it?\n{record}\n")
        _, told = ended("why", "toy.yaml", "made")
        assert "accepted by filter 3: rubric: the content changed" in told
        code, told = ended("plan", "toy.yaml")
        [line] = [line for line in told.splitlines() if line.strip().startswith("made  ")]
        assert code == 0
        assert "6 (0-6)" in line
        [line] = [line for line in told.splitlines() if line.strip().startswith("kept  ")]
        assert re.search(r" [1-5] \(0-[345]\) ", line)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ((("rows: made", "rows: seeds"),), "no filter reads the rows of made; write num_rows: 40"),
        ((("rows: formed", "rows: made"),), "formed and different filter the same rows, so which"),
        (
            ((", max_tokens: 20}", ", verdict: logprob, keep_share: 0.5}"),),
            "kept chooses among all",
        ),
        ((("{accepted: 40}", "{accepted: 0}"),), "num_rows"),
        (
            (("kind: lamini, seeds: seeds, teacher: teacher,", "kind: json_mode,"),),
            "needs a teacher",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(
    changes: tuple[tuple[str, str], ...], why: str, tmp_path: Path
) -> None:
    with serving() as server:
        more = (
            ((",\n    ask_for: 2, answers: {max_tokens: 20}", ""),)
            if "json" in str(changes)
            else ()
        )
        plant(tmp_path, server, *changes, *more)
    with pytest.raises(RecipeError, match=r"toy.yaml:9: stages.made") as told:
        load_recipe(tmp_path / "toy.yaml")
    assert why in str(told.value)


TASKS = [
    chat(f"t{i}", f"Task {i}?", f"{i} words " * 12, submix=submix, task_name=f"n{i % 2}")
    for i, submix in enumerate(["cot", "niv2", "t0", "flan2021"] * 5)
]


@pytest.mark.parametrize(
    "scheme",
    [
        LaMini("s", "t", Accepted(9), topic_share=0.5),
        Orca("s", "t", Accepted(9)),
        EvolInstruct("s", "t", num_seeds=Accepted(9), rounds=1),
        ToolCalls(Accepted(9), teacher="t"),
        JSONMode(Accepted(9), teacher="t"),
        CitedAnswers(Accepted(9), teacher="t", seeds="s"),
    ],
    ids=lambda scheme: scheme.kind,
)
def test_more_rows_ask_again_what_fewer_asked(scheme: Any) -> None:
    """Else a wave would buy what an earlier one bought in other words."""
    few, many = (Teacher(lambda request: "A new answer of some words.") for _ in range(2))
    for num, teacher in ((4, few), (9, many)):
        scheme.first(num, TASKS, teacher, seed=1)
    assert few.seen
    assert {content_hash(r.content()) for r in few.seen} < {
        content_hash(r.content()) for r in many.seen
    }


def test_a_probe_tells_tokens_and_the_share_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(world(0.9)) as server:
        plant(tmp_path, server)
        _, guess = ended("plan", "toy.yaml")
        assert not server.bodies
        code, told = ended("plan", "toy.yaml", "--probe", "10")
        assert code == 0, told
        num = asked(server)
        assert 0 < num <= 2 + 5 + 10 + 10 + 3
        kept = next(line for line in told.splitlines() if line.strip().startswith("kept  "))
        assert kept.split()[3] == "40"
        # the high end of the quote is that of the probe, not that of a limit of 100 for each
        assert _dollars(told) < _dollars(guess) / 3
        # what the probe has asked the run does not ask again
        code, told = ended("run", "toy.yaml")
        assert code == 0, told
        assert not asked_twice(server)
        assert len(rows("kept")) == 40
        # a limit of money holds for a probe too
        plant(tmp_path, server, ("name: toy", "name: poor\nbudget_usd: 0.001"), ("2, a", "3, a"))
        code, told = ended("plan", "toy.yaml", "--probe", "10")
        assert (code, "raise budget_usd" in told) == (3, True), told


def _dollars(told: str) -> float:
    [total] = [line for line in told.splitlines() if line.strip().startswith("total  ")]
    return float(total.split()[-1].strip("()").split("-")[-1])
