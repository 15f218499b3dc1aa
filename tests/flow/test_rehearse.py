"""`bezoar rehearse`: faults with their places, real questions, what is left alone, advice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Message
from bezoar.data.critiques import Revised, parse_revision
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.revision import Revision
from bezoar.evals.win_rate import WinRate
from bezoar.flow.toy_size import toy_size
from bezoar.llm.rehearsed import spoken
from bezoar.llm.types import Request
from bezoar.prompts import fill, read_prompt
from bezoar.synth.evolution import read_equality
from bezoar.synth.examples import is_instruction, parse_examples
from bezoar.verdicts.accept_reject import Verdict, parse_verdict
from bezoar.verdicts.rating import parse_rating
from tests.helpers.command import ended
from tests.helpers.server import accept, answer, serving

PRICES = {"input_usd_per_million": 1000, "output_usd_per_million": 2000}
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def folder(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def recipe(folder: Path, url: str = NOWHERE, **more: Any) -> Path:
    """Two branches: rows that are judged twice, and rows without a column that is needed."""
    rows = [
        {"instruction": f"Say {n}.", "context": "", "response": f"It is {n}."} for n in range(40)
    ]
    lines = [json.dumps({**row, "category": "open_qa"}) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "broken.jsonl").write_text(json.dumps({"instruction": "Say 1."}))
    judge = {"kind": "endpoint", "url": url, "model": "m", "prices": PRICES, "retries": 0}
    value: dict[str, Any] = {
        "name": "toy",
        "backends": {"judge": {**judge, **more.pop("judge", {})}},
        "stages": {
            "rows": {"kind": "dolly", "path": "rows.jsonl", "shuffle_seed": 3, "limit": 30},
            "kept": {"kind": "filter", "rows": "rows", "judge": "judge"},
            "again": {"kind": "filter", "rows": "kept", "judge": "judge"},
            **more,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(value, indent=1))
    return path


BROKEN = {
    "bad": {"kind": "dolly", "path": "broken.jsonl"},
    "bad-kept": {"kind": "filter", "rows": "bad", "judge": "judge"},
}


def test_a_fault_has_its_place_and_other_branches_go_on(folder: Path) -> None:
    path = recipe(folder, **BROKEN)
    before = sorted(folder.iterdir())
    code, said = ended("rehearse", str(path), "--offline")
    assert code == 1
    cells = [line.split() for line in said.splitlines()]
    lines = {words[0]: " ".join(words) for words in cells if words}
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"bad":' in text)
    where = f"{path}:{line}: stages.bad: "
    assert f"first fault: {where}" in said
    assert "broken.jsonl:1: the row has no column 'response'" in lines["bad"]
    assert lines["bad-kept"].startswith("bad-kept not tried it needs bad")
    assert lines["again"].startswith("again ok 16 rows; 16 replies (16 from the journal)")
    # no run directory, no journal
    assert sorted(folder.iterdir()) == before


def test_each_endpoint_is_asked_two_questions_and_their_price_is_told(folder: Path) -> None:
    with serving(accept) as server:
        path = recipe(folder, server.url, judge={"key_env": "MY_KEY"})
        code, said = ended("rehearse", str(path), MY_KEY="key-of-a-test")
    assert code == 0, said
    # 10 prompt and 5 completion tokens each
    assert "judge: 2 questions, 30 tokens, USD 0.020, 0.020." in said
    assert len(server.bodies) == 2
    assert server.keys == {"Bearer key-of-a-test"}


def test_offline_needs_neither_server_nor_key(folder: Path) -> None:
    path = recipe(folder, judge={"key_env": "MY_KEY"})
    code, said = ended("rehearse", str(path), "--offline")
    assert code == 0, said
    # how long a server writes is not known, and the estimate says so
    estimate = [line.rstrip() for line in said.partition("At full size")[2].splitlines()]
    lines = {line.split()[0]: line for line in estimate if line}
    assert lines["kept"].endswith("not timed")
    assert not lines["rows"].endswith("not timed")
    assert "Not timed, and not in the sum, is what language models" in said
    code, without = ended("rehearse", str(path))
    assert code == 1
    assert f"{path}" in without
    assert "backends.judge.key_env" in without
    assert "the environment variable MY_KEY with the API key is not set" in without


def test_a_server_that_fails_is_a_fault_of_the_stage_that_asks_it(folder: Path) -> None:
    with serving(lambda body, seen: (400, {}, '{"error": "no such model"}')) as server:
        path = recipe(folder, server.url)
        code, said = ended("rehearse", str(path))
    assert code == 1
    assert "stages.kept: " in said
    assert "m did not answer a question" in said


def test_a_run_advises_a_rehearsal_until_there_was_one(folder: Path) -> None:
    told = "judge has prices, and the recipe was not rehearsed since it changed: `bezoar rehearse"
    with serving(accept) as server:
        path = recipe(folder, server.url)
        assert told in ended("run", str(path))[1]
        assert ended("rehearse", str(path), "--offline")[0] == 0
        (folder / "runs").rename(folder / "before")
        assert "rehearse" not in ended("run", str(path))[1]
        recipe(folder, server.url, judge={"extra": {"min_p": 0.1}})
        assert told in ended("run", str(path))[1]
        # a rehearsal with a fault is none
        recipe(folder, server.url, **BROKEN)
        assert ended("rehearse", str(path), "--offline")[0] == 1
        assert ended("run", str(path))[0] == 2


def test_a_reply_of_a_server_that_cannot_be_read_is_counted(folder: Path) -> None:
    with serving(lambda body, seen: answer("Hm.")) as server:
        code, said = ended("rehearse", str(recipe(folder, server.url)))
    assert code == 0, said
    assert "dropped 2 unparsed" in said


def said(file: str, **texts: str) -> str:
    words = fill(read_prompt(file), **texts, end="[end]")
    return spoken(Request((Message("user", words),)))


def test_answers_of_evaluated_models_are_short() -> None:
    win = {"against": "base", "judge": "j", "questions": "q.jsonl"}
    stage = Evaluate("m", mt_bench=MTBench("j", max_tokens=1024), win_rate=WinRate(**win))
    small = toy_size(replace(stage, revision=Revision("j")))
    assert small.mt_bench.max_tokens == small.win_rate.max_tokens == 64
    # critiques and revisions have a form, which a cut one lacks
    assert small.revision.max_tokens == Revision("j").max_tokens
    assert toy_size(replace(stage, mt_bench=MTBench("j", max_tokens=20))).mt_bench.max_tokens == 20


def test_the_script_speaks_every_format() -> None:
    lists = parse_examples(
        said("bezoar:lamini_guided.txt", examples="<example>A</example>"), cut=False
    )
    assert len({item.text for item in lists}) == 6
    assert all(is_instruction(item.text) for item in lists)
    assert read_equality(said("bezoar:evol_equal.txt", first="a", second="b")) == "not equal"
    assert isinstance(parse_verdict(said("bezoar:accept_reject.txt", record="r")), Verdict)
    graded = said("bezoar:mt_bench/single.md", question="q", answer="a")
    assert 5 <= (parse_rating(graded).value or 0) <= 9
    assert "[[C]]" in said("bezoar:pairwise.txt", prompt="p", a="a", b="b")
    both = said("bezoar:critique_revise.txt", conversation="c", response="r")
    assert isinstance(parse_revision(both), Revised)
    fastchat = 'Rate it from 1 to 10 by strictly following this format: "[[rating]]"'
    assert parse_rating(spoken(Request((Message("user", fastchat),)))).value
