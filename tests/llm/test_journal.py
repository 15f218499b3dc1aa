"""The journal: what is written, found, settled and counted; whose eyes see it; what another process
holds."""

import errno
import os
import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from bezoar.errors import DataError
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.types import Reply, Request
from tests.helpers.questions import question

Q = question("a")
PASSING, REFUSED, UNREADABLE = (
    Reply(finish="error", error="no", failure=kind) for kind in ("passing", "refused", "malformed")
)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "far" / "down" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


def entry(key: str, reply: Reply | None, **more: str) -> Entry:
    return Entry(key, Q, reply, **{"model": "m", **more})  # type: ignore[arg-type]


def setting(journal: Journal, name: str) -> object:
    return journal._db.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize("umask", [0o077, 0o022, 0])
def test_a_new_journal_is_its_owners_whatever_the_umask(umask: int, path: Path) -> None:
    before = os.umask(umask)
    try:
        Journal(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_journal_waits_for_the_disk(journal: Journal, path: Path) -> None:
    assert (
        path.stat().st_mode & 0o777
        == path.with_name("journal.sqlite.claims").stat().st_mode & 0o777
        == 0o600
    )
    assert (
        setting(journal, "journal_mode"),
        setting(journal, "user_version"),
        setting(journal, "synchronous"),
    ) == ("wal", 2, 2)
    assert setting(journal, "busy_timeout") == 250


@pytest.mark.parametrize(("mode", "after"), [(0o644, 0o600), (0o601, 0o600), (0o700, 0o700)])
def test_a_journal_that_others_can_read_is_closed_to_them(
    mode: int, after: int, path: Path
) -> None:
    Journal(path).close()
    path.chmod(mode)
    Journal(path).close()
    assert path.stat().st_mode & 0o777 == after


def test_what_cannot_be_opened_is_named(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(
        DataError,
        match=(
            r"^.*journal\.sqlite: the journal cannot be opened \(Is a directory\); check the file"
            r" and its folder\.$"
        ),
    ):
        Journal(path)


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(
        DataError,
        match=(
            r"^.*journal\.sqlite: the journal has version 3, this bezoar reads 2; update bezoar or"
            r" move the file away\.$"
        ),
    ):
        Journal(path)


def test_an_entry_is_written_whole(journal: Journal) -> None:
    started = time.time()
    reply = Reply("yes", "length", (-0.5, -1.0), 3, 4, 0.25)
    numbers = journal.put_many(
        [
            entry("k", reply, run="r", stage="s"),
            Entry("l", Request(()), None, "n", "q", "t", "the body"),
        ]
    )
    assert numbers == [1, 2]
    assert journal.put_many([entry("m", PASSING, stage="s")]) == [3]
    first, second, third = journal.entries()
    assert set(first) == {"key", "request", "reply", "model", "run", "stage", "time_s", "body"}
    assert started <= first.pop("time_s") <= time.time()
    request = {**asdict(Q), "messages": [asdict(m) for m in Q.messages]}
    assert first["request"] == {
        name: list(value) if isinstance(value, tuple) else value for name, value in request.items()
    } | {"messages": first["request"]["messages"]}
    assert first["request"]["messages"][0]["content"] == "a"
    assert first["reply"] == {**asdict(reply), "logprobs": [-0.5, -1.0]}
    assert {name: first[name] for name in ("key", "model", "run", "stage", "body")} == {
        "key": "k",
        "model": "m",
        "run": "r",
        "stage": "s",
        "body": None,
    }
    assert {name: second[name] for name in ("key", "reply", "model", "run", "stage", "body")} == {
        "key": "l",
        "reply": {},
        "model": "n",
        "run": "q",
        "stage": "t",
        "body": "the body",
    }
    assert [e["key"] for e in journal.entries(stage="s")] == ["k", "m"]
    assert journal.entries(stage="") == []
    assert (third["run"], third["stage"]) == ("", "s")


def test_a_settled_reply_is_the_first_answer_else_the_failure_that_is_final(
    journal: Journal,
) -> None:
    one, two = Reply("one"), Reply("two")
    journal.put_many(
        [
            entry("answered", PASSING),
            entry("answered", one),
            entry("answered", two),
            entry("passing", PASSING),
            entry("refused", REFUSED),
            entry("refused", PASSING),
            entry("unreadable", UNREADABLE),
            entry("late", REFUSED),
            entry("late", one),
            entry("unread", None),
            entry("plain", Reply(finish="error", error="no")),
            entry("unsent", Reply(finish="error", error="budget", failure="budget")),
        ]
    )
    names = [
        "answered",
        "passing",
        "refused",
        "unreadable",
        "late",
        "unread",
        "plain",
        "unsent",
        "absent",
    ]
    assert journal.get_many(names) == {
        "answered": one,
        "refused": REFUSED,
        "unreadable": UNREADABLE,
        "late": one,
    }
    assert journal.get_many([]) == {}


def test_a_damaged_entry_is_named_unless_its_body_can_be_read_again(journal: Journal) -> None:
    for number, (key, body) in enumerate((("a", None), ("b", "body")), 1):
        journal.put_many([Entry(key, Q, Reply("x"), "m", body=body)])
        journal._db.execute("UPDATE replies SET reply = '{\"text\": 1' WHERE id = ?", (number,))
    assert journal.get_many(["b"]) == {}
    with pytest.raises(
        DataError,
        match=(
            r"^.*sqlite: entry 1 is damaged; remove it with sqlite3, and its question is asked"
            r" again\.$"
        ),
    ):
        journal.get_many(["a", "b"])


def test_bodies_that_nobody_read_are_read_once(journal: Journal) -> None:
    other = question("b")
    journal.put_many(
        [
            Entry("k", Q, None, "m", "r", body="first"),
            Entry("l", other, None, "m", "r", body="second"),
            Entry("n", Q, None, "m", "r"),
            Entry("read", Q, Reply("old"), "m", "r", body="third"),
            Entry("failed", Q, PASSING, "m", "r", body="fourth"),
        ]
    )
    journal._db.execute("UPDATE replies SET reply = 'torn' WHERE key = 'l'")
    seen: list[tuple[str, str]] = []

    def read(body: str, request: Request) -> Reply:
        seen.append((body, request.messages[0].content))
        return Reply(body.upper(), cost_usd=0.5)

    asked = {"k": Q, "l": other, "n": Q, "read": Q, "failed": Q}
    wanted = {
        "k": Reply("FIRST", cost_usd=0.5),
        "l": Reply("SECOND", cost_usd=0.5),
        "read": Reply("old"),
    }
    assert journal.look_up(asked, read) == wanted
    assert sorted(seen) == [("first", "a"), ("second", "b")]
    assert journal.look_up(asked, read) == wanted
    assert len(seen) == 2
    assert journal.spent_usd("r") == 1.0
    assert journal.look_up({"l": other}, read) == {"l": wanted["l"]}


@pytest.mark.parametrize("count", [1, 500, 501])
def test_each_of_many_bodies_is_read_and_paid_once(count: int, journal: Journal) -> None:
    asked = {str(i): Q for i in range(count)}
    journal.put_many([Entry(key, Q, None, "m", "r", body="") for key in asked])
    found = journal.look_up(asked, lambda body, _: Reply(f"<{body}>", cost_usd=1.0))
    assert found == dict.fromkeys(asked, Reply("<>", cost_usd=1.0))
    assert journal.spent_usd("r") == count


def test_what_a_body_turns_out_to_be_counts(journal: Journal) -> None:
    numbers = journal.put_many(
        [
            Entry(key, Q, None, "m", run, body="b")
            for key, run in (("x", "r"), ("y", "r"), ("z", "q"))
        ]
    )
    assert journal.get_many("xyz") == {}
    journal.settle(
        [
            (numbers[0], Reply("yes", cost_usd=2.0)),
            (numbers[1], Reply(finish="error", error="e", cost_usd=1.0, failure="refused")),
        ]
    )
    journal.settle([(numbers[2], Reply(finish="error", error="e", failure="passing"))])
    journal.settle([])
    assert set(journal.get_many("xyz")) == {"x", "y"}
    assert (journal.spent_usd("r"), journal.spent_usd("q"), journal.spent_usd("nobody")) == (
        3.0,
        0.0,
        0.0,
    )
    assert [e["body"] for e in journal.entries()] == ["b"] * 3


def test_money_is_counted_by_run_and_failures_cost_too(journal: Journal) -> None:
    costly = Reply(finish="error", error="cut", cost_usd=0.5)
    journal.put_many(
        [
            entry("a", Reply(cost_usd=1.0), run="r"),
            entry("b", costly, run="r"),
            entry("c", Reply(cost_usd=4.0), run="q"),
            entry("d", Reply(), run="r"),
        ]
    )
    assert (journal.spent_usd("r"), journal.spent_usd("q"), journal.spent_usd("")) == (
        1.5,
        4.0,
        0.0,
    )
    journal.put_many([entry("a", Reply(cost_usd=1.0), run="r")])
    assert journal.spent_usd("r") == 2.5


def test_whether_a_model_ever_answered(journal: Journal) -> None:
    journal.put_many(
        [entry("a", PASSING), entry("b", REFUSED), entry("c", Reply("x"), model="other")]
    )
    assert journal.answered("other")
    assert not journal.answered("m")
    assert not journal.answered("nobody")


def test_a_batch_is_written_whole_or_not_at_all(journal: Journal) -> None:
    with pytest.raises(
        DataError,
        match=(
            r"the journal cannot be used \(NOT NULL constraint failed: replies\.model\); check the"
            r" file"
        ),
    ):
        journal.put_many([entry("a", Reply(cost_usd=1.0), run="r"), Entry("b", Q, Reply(), None)])  # type: ignore[arg-type]
    assert journal.entries() == []
    assert journal.spent_usd("r") == 0.0
    journal.put_many([entry("c", Reply("x"))])
    assert [e["key"] for e in journal.entries()] == ["c"]


def test_replies_wait_for_the_disk_and_what_follows_from_them_does_not(journal: Journal) -> None:
    (number,) = journal.put_many([Entry("k", Q, None, "m", body="b")])
    assert setting(journal, "synchronous") == 2
    journal.settle([(number, Reply("x"))])
    assert setting(journal, "synchronous") == 1
    journal.put_many([entry("l", Reply("y"))])
    assert setting(journal, "synchronous") == 2
    journal.reserve("ab", "r", 0.0, [], limit_usd=1.0)
    assert setting(journal, "synchronous") == 1


def test_a_first_write_that_follows_from_replies_does_not_wait_for_the_disk(
    journal: Journal,
) -> None:
    journal.reserve("ab", "r", 0.0, [], limit_usd=1.0)
    assert setting(journal, "synchronous") == 1


def test_all_threads_of_a_process_share_a_journal(journal: Journal) -> None:
    journal.put_many([entry("k", Reply("x"))])
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(journal.get_many, ["k"]).result() == {"k": Reply("x")}


@contextmanager
def held(path: Path, seconds: float, *writes: str) -> Iterator[threading.Timer]:
    """Another process writes for a while: until the timer has run out or is cancelled."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    for statement in writes:
        other.execute(statement)
    letting_go = threading.Timer(seconds, lambda: other.execute("COMMIT"))
    letting_go.start()
    yield letting_go
    letting_go.join()
    other.close()


@pytest.mark.parametrize(
    ("telling", "seconds", "count"), [(True, 2.9, 1), (True, 0.6, 0), (False, 0.6, 0)]
)
def test_a_write_waits_for_another_process_and_says_so_once(
    telling: bool, seconds: float, count: int, path: Path
) -> None:
    said: list[str] = []
    with Journal(path, said.append if telling else None) as journal:
        started = time.monotonic()
        with held(path, seconds):
            journal.put_many([entry("k", Reply("x"))])
            assert time.monotonic() - started > seconds - 0.2
        journal.put_many([entry("l", Reply("x"))])
    assert (
        said
        == [f"{path}: another process holds the journal; nothing new is asked until it lets go"]
        * count
    )


def test_a_journal_opens_while_another_process_writes(path: Path) -> None:
    Journal(path).close()
    with held(path, 30.0) as holding:
        Journal(path).close()
        assert holding.is_alive()
        holding.cancel()


def test_a_journal_that_another_process_is_making_is_not_made_twice(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        made = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
    db.close()
    empty = path.with_name("empty.sqlite")
    with sqlite3.connect(empty) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    with held(empty, 0.2, *made, "PRAGMA user_version = 2"), Journal(empty) as journal:
        assert journal.put_many([entry("k", Reply("x"))]) == [1]


@pytest.mark.parametrize(
    ("code", "free", "limited", "number", "sentence"),
    [
        (sqlite3.SQLITE_FULL, 1 << 40, False, errno.ENOSPC, "no space left on the disk"),
        (sqlite3.SQLITE_IOERR_WRITE, 65535, False, errno.ENOSPC, "no space left on the disk"),
        (
            sqlite3.SQLITE_IOERR_WRITE,
            65536,
            True,
            errno.EFBIG,
            "the limit on file sizes (`ulimit -f`) is reached",
        ),
        (sqlite3.SQLITE_IOERR_WRITE, 65536, False, None, "the journal cannot be used (why)"),
        (sqlite3.SQLITE_CORRUPT, 0, True, None, "the journal cannot be used (why)"),
    ],
)
def test_a_full_disk_and_a_limit_are_told_from_a_broken_disk(
    code: int,
    free: int,
    limited: bool,
    number: int | None,
    sentence: str,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing() -> None:
        cause = sqlite3.OperationalError("why")
        cause.sqlite_errorcode = code
        raise cause

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40 if limited else before[1], before[1]))
    try:
        with pytest.raises(OSError if number else DataError) as caught:
            journal._guard(failing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (
            number,
            sentence,
            str(journal.path),
        )
    assert sentence in str(caught.value)


def test_text_that_is_no_utf8_is_one_sentence(journal: Journal) -> None:
    """An error that comes from Python, not from SQLite: it has no code."""
    journal.put_many([entry("k", Reply("x"))])
    journal._db.execute("UPDATE replies SET reply = CAST(x'ff' AS TEXT)")
    with pytest.raises(
        DataError,
        match=r"journal\.sqlite: the journal cannot be used \(Could not decode to UTF-8 column",
    ):
        journal.entries()


def test_a_read_does_not_wait(journal: Journal, path: Path) -> None:
    journal.put_many([entry("k", Reply("x"))])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert journal.get_many(["k"]) == {"k": Reply("x")}
    other.close()


def test_a_file_that_is_damaged_later_is_named(journal: Journal) -> None:
    journal._db.execute("DROP TABLE replies")
    with pytest.raises(
        DataError,
        match=(
            r"sqlite: the journal cannot be used \(no such table: replies\); check the file and its"
            r" folder, or move it away\.$"
        ),
    ):
        journal.entries()


def test_money_is_put_aside_for_those_who_are_alive(path: Path) -> None:
    """Journals that were opened apart hold claims apart, as processes do."""
    one = Journal(path)
    with Journal(path) as two, Journal(path) as three:
        one.put_many(
            [
                entry("a", Reply(cost_usd=1.0), run="r"),
                entry("a", Reply(cost_usd=50.0), run="other"),
            ]
        )
        for journal, owner in ((one, "aa"), (two, "bb"), (three, "cc")):
            assert journal.claims.take(owner)
        assert one.reserve("aa", "r", 0.0, [3.0, 3.0], limit_usd=10.0) == (2, 0.0)
        # 1 spent, 6 held
        assert two.reserve("bb", "r", 0.0, [2.0, 2.0], limit_usd=10.0) == (1, 6.0)
        # and 2 of its own
        assert two.reserve("bb", "r", 2.0, [1.0, 1.0], limit_usd=10.0) == (1, 6.0)
        assert three.reserve("cc", "other", 0.0, [9.0], limit_usd=60.0) == (1, 0.0)  # another run
        assert three.reserve("cc", "r", 0.0, [1.0], limit_usd=10.0) == (0, 9.0)
        two.claims.release("bb")
        assert three.reserve("cc", "r", 0.0, [3.0, 0.5], limit_usd=10.0) == (1, 6.0)
        assert one.reserve("aa", "r", 6.0, [0.5], limit_usd=10.0) == (0, 3.0)
        one.close()
        assert three.reserve("cc", "r", 3.0, [6.0, 0.5], limit_usd=10.0) == (1, 0.0)


def test_a_budget_has_spent_what_its_run_has_in_the_journal(journal: Journal) -> None:
    journal.put_many(
        [entry("a", Reply(cost_usd=1.0), run="r"), entry("b", Reply(cost_usd=50.0), run="other")]
    )
    assert Budget(10.0, journal, run="r").reserve([9.0, 0.5]) == (1, 0.0)


def test_two_budgets_of_a_run_on_one_journal(path: Path) -> None:
    with Journal(path) as one, Journal(path) as two:
        first, second = Budget(10.0, one, run="r"), Budget(10.0, two, run="r")
        assert first.reserve([4.0]) == (1, 0.0)
        assert second.reserve([4.0, 4.0]) == (1, 4.0)
        first.release(4.0)  # known to others with the next reservation
        assert first.reserve([1.0]) == (1, 4.0)
        assert second.reserve([4.0, 4.0]) == (1, 1.0)
        first.end()
        assert second.reserve([2.5, 0.0]) == (0, 0.0)
        second.end()
        assert first.reserve([10.0, 0.0]) == (2, 0.0)


def test_closed_journals_hold_no_claims(path: Path) -> None:
    one, two = Journal(path), Journal(path)
    assert one.claims.take("f00")
    assert not two.claims.take("f00")
    assert two.claims.taken("f00")
    assert not two.claims.taken("eff")
    assert not two.claims.taken("f01")
    assert not one.claims.taken("f00")
    assert two.claims.take("f01")
    assert two.claims.take("eff")
    assert not one.claims.take("f01")
    assert one.claims.taken("eff")
    assert not two.claims.taken("f02")
    one.close()
    assert not two.claims.taken("f00")
    assert two.claims.take("f00")
    two.claims.release("f00")
    with two as same:
        assert same is two
    with pytest.raises(
        DataError,
        match=(
            r"claims: the file system gives no locks \(Bad file descriptor\); keep runs on a disk"
            r" that does\.$"
        ),
    ):
        two.claims.take("f00")


@pytest.mark.parametrize("column", ["request", "reply"])
def test_entries_of_a_damaged_journal_are_one_sentence(column: str, path: Path) -> None:
    with Journal(path) as journal:
        journal.put_many([entry("aa", Reply("one"))])
        journal._db.execute(f"UPDATE replies SET {column} = '{{'")
        with pytest.raises(
            DataError, match=r"journal\.sqlite: a request or reply in it is no JSON"
        ):
            journal.entries()


def test_a_failure_of_an_older_journal_has_its_name_of_now(tmp_path: Path) -> None:
    old = Reply(finish="error", error="no text", failure="malformed")
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.put_many([Entry("k", Q, old, "m")])
        journal.change("UPDATE replies SET reply = replace(reply, 'malformed', 'unreadable')")
        assert journal.get_many(["k"]) == {"k": old}
        assert journal.tried(["k"]) == set()
