"""Pool, journal, budget and scripted models."""

import errno
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import DataError
from bezoar.llm.budget import REFUSED, Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.pool import Pool
from bezoar.llm.scripted import Scripted, ScriptedBackend, last_user
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from tests.helpers.questions import question, questions
from tests.helpers.server import answer, serving


def loud(request: Request) -> str:
    return last_user(request).upper()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def pool(backend: ScriptedBackend, journal: Journal, budget: Budget | None = None) -> Pool:
    return Pool(backend, journal, budget or Budget(), Progress(), stage="s")


def test_equal_requests_are_asked_once_and_never_again(journal: Journal) -> None:
    backend = ScriptedBackend(loud)
    asked = pool(backend, journal)
    requests = [*questions(3), *questions(2), question("question 0", seed=1)]
    replies = asked.ask(requests)
    assert [r.text[-1] for r in replies] == ["0", "1", "2", "0", "1", "0"]
    assert len(backend.seen) == 4
    assert pool(backend, journal).ask(requests) == replies
    assert len(backend.seen) == 4
    assert {k: asked.counts()[k] for k in ("asked", "from_journal", "failed")} == {
        "asked": 4,
        "from_journal": 0,
        "failed": 0,
    }


def test_a_final_failure_is_counted_once_over_parts(tmp_path: Path) -> None:
    def filters(body: dict[str, Any], seen: int) -> Any:
        if body["messages"][-1]["content"] == "question 1":
            return 400, {}, '{"error": {"code": "content_filter"}}'
        return answer("yes")

    with serving(filters) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = Pool(Endpoint(server.url, "m").open(), journal, Budget(), Progress())
        for _ in range(2):
            assert asked.ask(questions(3))[1].failure == "filtered"
    assert (asked.counts()["asked"], asked.counts()["failed"]) == (3, 1)


def test_the_parts_of_a_stage_count_an_equal_request_once(journal: Journal) -> None:
    for known in (0, 5):
        whole, parts = (pool(ScriptedBackend(loud, identity=name), journal) for name in "wp")
        whole.ask(questions(5))
        for part in (questions(3), questions(4), questions(5)[3:]):
            parts.ask(part)
        for counts in (found := [whole.counts(), parts.counts()]):
            del counts["seconds"]
        assert found[0] == found[1]
        assert (found[0]["asked"], found[0]["from_journal"]) == (5, known)


def test_another_model_is_asked_anew(journal: Journal) -> None:
    one, two = ScriptedBackend(loud), ScriptedBackend(lambda r: "two", identity="other")
    assert [pool(b, journal).ask(questions(1))[0].text for b in (one, two)] == ["QUESTION 0", "two"]


def test_groups_are_made_from_all_requests_whatever_is_answered(journal: Journal) -> None:
    class Noting(ScriptedBackend):
        def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
            calls.append([last_user(r)[-1] for r in requests])
            return super().answer(requests)

    calls: list[list[str]] = []
    backend = Noting(loud, group=4)
    pool(backend, journal).ask(questions(4))
    pool(backend, journal).ask(questions(9))
    assert calls == [list("0123"), list("4567"), list("8")]


def test_replies_are_on_the_disk_before_the_next_group(journal: Journal) -> None:
    def failing(request: Request) -> str:
        if last_user(request) == "question 5":
            raise KeyboardInterrupt
        return loud(request)

    with pytest.raises(KeyboardInterrupt):
        pool(ScriptedBackend(failing, group=2), journal).ask(questions(8))
    with Journal(journal.path) as other:
        assert [e["reply"]["text"] for e in other.entries()] == [f"QUESTION {i}" for i in range(4)]


def test_an_interrupt_while_journalling_loses_nothing(tmp_path: Path) -> None:
    class Interrupted(Journal):
        def put_many(self, entries: Sequence[Entry]) -> None:
            if not self.entries():
                signal.raise_signal(signal.SIGINT)
            super().put_many(entries)

    class Waiting(ScriptedBackend):
        def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
            try:
                yield [(0, Reply("first"))]
                yield [(1, Reply("never"))]
            except KeyboardInterrupt:
                yield [(2, Reply("in flight"))]
                raise

    with Interrupted(tmp_path / "j.sqlite") as journal:
        with pytest.raises(KeyboardInterrupt):
            pool(Waiting(loud), journal).ask(questions(3))
        assert [e["reply"]["text"] for e in journal.entries()] == ["first", "in flight"]


class Priced(ScriptedBackend):
    """Costs 1 USD a reply, and could cost 2."""

    prices = Prices(output_usd_per_million=1e6)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        for batch in super().answer(requests):
            yield [(i, Reply(r.text, completion_tokens=1, cost_usd=1.0)) for i, r in batch]


def test_the_budget_is_never_passed_and_the_rest_is_counted(journal: Journal) -> None:
    backend = Priced(loud, group=100)
    requests = [question(f"question {i}", max_tokens=2) for i in range(20)]
    asked = pool(backend, journal, Budget(8.0, journal, run="r"))
    replies = asked.ask(requests)
    assert [r.error for r in replies] == [""] * 7 + [REFUSED] * 13  # an eighth might cost 2
    assert asked.counts()["refused_by_budget"] == 13
    assert asked.counts()["cost_usd"] == 7
    assert len(journal.entries()) == 7
    # the same run, started again, still has one dollar; a larger budget answers the rest; another
    # run pays for itself
    assert (journal.spent_usd("r"), journal.spent_usd("other")) == (7, 0)
    assert (
        pool(backend, journal, Budget(None, journal, run="r")).ask(requests)[-1].text
        == "QUESTION 19"
    )
    assert len(backend.seen) == 20


def test_the_most_a_request_can_cost_counts_bytes() -> None:
    assert (
        Prices(1e6, 10e6).most_usd(question("héé", prefill="x", max_tokens=3))
        == (5 + 16 + 1 + 16) + 30
    )


def test_the_first_of_two_answers_is_kept(journal: Journal) -> None:
    entries = [
        Entry("k", question("a"), Reply(text, cost_usd=1.0), "m", run="r")
        for text in ("first", "second")
    ]
    journal.put_many([Entry("k", question("a"), Reply(finish="error", error="no"), "m")])
    assert journal.get_many(["k"]) == {}
    journal.put_many(entries[:1])
    journal.put_many(entries[1:])
    assert journal.get_many(["k", "absent"]) == {"k": entries[0].reply}
    assert journal.spent_usd("r") == 2.0


def test_replies_come_back_whole(journal: Journal) -> None:
    reply = Reply("a\u2028\U0001f600 \ud83d\nb", "length", (-0.1, -2.0), 3, 4, 0.5)
    journal.put_many([Entry(f"k{i}", question("ü"), reply, "m") for i in range(1200)])
    assert journal.get_many(f"k{i}" for i in range(1200)) == {f"k{i}": reply for i in range(1200)}


def test_two_processes_write_to_one_journal(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from bezoar.llm.journal import *; from bezoar.llm.types import *\nj ="
        " Journal(pathlib.Path(sys.argv[1]))\nfor i in range(40):"
        " j.put_many([Entry(f'{sys.argv[2]}-{i}', Request(()), Reply(str(i)), 'm')])\n"
    )
    path = tmp_path / "journal.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [p.wait(60) for p in running] == [0, 0]
    with Journal(path) as journal:
        assert len(journal.entries()) == 80


def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("these are my notes, not a database at all\n" * 50)
    with pytest.raises(DataError, match=r"journal\.sqlite.*cannot be used"):
        Journal(path)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(DataError, match=r"version 9"):
        Journal(newer)


def test_a_full_disk_is_an_os_error_and_loses_nothing(journal: Journal) -> None:
    journal.put_many([Entry("k", question("a"), Reply("kept"), "m")])
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError) as caught:
        journal.put_many([Entry("l", question("a" * 100_000), Reply("lost"), "m")])
    assert caught.value.errno == errno.ENOSPC
    assert journal.get_many(["k", "l"]) == {"k": Reply("kept")}


def test_a_script_answers_by_the_first_pattern(tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text(
        '{"pattern": "capital of (\\\\w+)", "reply": "The capital of \\\\1 is X."}\n{"pattern":'
        ' "^", "reply": "accept this"}\n'
    )
    backend = Scripted(script=str(script)).open()
    [(_, one), (_, two), (_, three)] = next(
        backend.answer(
            [
                question("Name the capital of Peru"),
                question("?", choices=("accept", "reject")),
                question("?", max_tokens=1),
            ]
        )
    )
    assert one.text == "The capital of Peru is X."
    assert two.logprobs[0] > two.logprobs[1]
    assert (three.text, three.finish) == ("accept", "length")
    before = backend.identity
    script.write_text(script.read_text() + '{"pattern": "x", "reply": "y"}\n')
    assert Scripted(script=str(script)).identity != before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"pattern": "("  , "reply": ""}', "regular expression"),
        ('{"pattern": "a"}', ":1:.*pattern and reply"),
        ('{"pattern": "zzz", "reply": ""}', "no pattern"),
    ],
)
def test_bad_scripts_are_named(text: str, says: str, tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text(text)
    with pytest.raises(DataError, match=says):
        list(Scripted(script=str(script)).open().answer([question("hello")]))
