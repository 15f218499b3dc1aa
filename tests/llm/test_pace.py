"""How fast endpoints are asked: refusals for overload, rates, several addresses."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import UnfinishedError
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pace import PerMinute, Window
from bezoar.llm.pool import Pool
from bezoar.progress import Progress
from tests.helpers.questions import questions
from tests.helpers.server import Behaviour, after, echo, serving


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def pool(journal: Journal, url: Any, progress: Progress | None = None, **more: Any) -> Pool:
    endpoint = Endpoint(url=url, model="m", **{"backoff_s": 0.02, **more})
    return Pool(endpoint.open(), journal, Budget(), progress or Progress(), stage="s")


def at_most(num: int, seconds: float, status: int) -> Behaviour:
    """Answers `num` at a time, each after `seconds`, and refuses more."""
    room = threading.Semaphore(num)

    def behave(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        if not room.acquire(blocking=False):
            return status, {}, "busy"
        time.sleep(seconds)
        room.release()
        return echo(body, seen)

    return behave


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_server_that_takes_few_at_a_time_is_asked_for_few(status: int, tmp_path: Path) -> None:
    told = Told()
    with serving(at_most(4, 0.02, status)) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server.url, told, concurrency=64, retries=3)
        replies = asked.ask_all(questions(200))
        assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(200)]
        # the first 60 that are too many, and then about one in seven
        assert sum(server.seen.values()) < 200 + 60 + 80
        assert asked.backend.replicas.all[0].window.size < 32
    assert set(server.answered.values()) == {1}
    assert any("had enough" in line and "of 64 requests at a time" in line for line in told.said)


def test_refusals_at_random_leave_the_window_open() -> None:
    window = Window(100)
    for _ in range(60):
        window.refused()
    assert window.size == 40
    for _ in range(60 * 6):
        window.answered(30)
    assert window.size == 100
    for _ in range(200):
        for i in range(10):
            window.refused() if i == 0 else window.answered(window.size)
    assert window.size >= 98
    size = window.size
    window.answered(1)
    assert window.size == size
    for _ in range(200):
        window.refused()
    assert window.size == 1


def test_nobody_is_asked_before_the_time_of_a_retry_after(tmp_path: Path) -> None:
    times: list[tuple[float, int]] = []

    def once(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        times.append((time.monotonic(), len(times)))
        if len(times) == 20:
            return 429, {"Retry-After": "0.6"}, "slow down"
        return after(0.01, echo)(body, seen)

    with serving(once) as server, Journal(tmp_path / "j.sqlite") as journal:
        pool(journal, server.url, concurrency=2).ask_all(questions(40))
    told_s = times[19][0]
    # what was on its way when the refusal came is not in question
    held = [seconds for seconds, number in times if number > 22]
    assert min(held) >= told_s + 0.55
    assert len(times) == 41


def test_a_wait_that_is_too_long_is_left_to_the_user(tmp_path: Path) -> None:
    refusal = (429, {"Retry-After": "4000"}, "slow down")
    with (
        serving(lambda body, seen: refusal) as server,
        Journal(tmp_path / "j.sqlite") as journal,
        pytest.raises(UnfinishedError, match=r"a wait of 4000 s \(429\); wait and run the same"),
    ):
        pool(journal, server.url).ask_all(questions(5))


def test_no_minute_holds_more_than_its_limit() -> None:
    for limit, units in ((1, 1), (7, 1), (300, 1), (9000, 300)):
        bucket, now, used = PerMinute(limit, 0.0), 0.0, list[float]()
        while now < 130:
            if wait_s := bucket.wait_s(units, now):
                now += wait_s
                continue
            bucket.use(units, now)
            used.append(now)
        for start in used:
            in_minute = sum(start <= at < start + 60 - 1e-6 for at in used)
            assert in_minute * units <= limit + units
        assert len(used) * units >= 2 * limit * 0.95


def test_requests_a_minute_are_spread(tmp_path: Path) -> None:
    times: list[float] = []

    def noted(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        times.append(time.monotonic())
        return echo(body, seen)

    with serving(noted) as server, Journal(tmp_path / "j.sqlite") as journal:
        # 20 a second: 20 at once, and the other 20 within a second
        pool(journal, server.url, requests_per_minute=1200).ask_all(questions(40))
    assert 0.9 < max(times) - min(times) < 3
    assert len(times) == 40


def test_tokens_a_minute_count_as_they_turn_out(tmp_path: Path) -> None:
    # 15 tokens each, as the server counts, in place of 256 and more that they could take: of the
    # 100 tokens a second that are left, 6 requests
    with serving() as server, Journal(tmp_path / "j.sqlite") as journal:
        started = time.monotonic()
        asked = pool(journal, server.url, tokens_per_minute=6000, concurrency=4)
        asked.ask_all(questions(18))
        seconds = time.monotonic() - started
    assert 1.5 < seconds < 8
    assert set(server.seen.values()) == {1}


def test_addresses_share_the_requests_and_the_journal(tmp_path: Path) -> None:
    slow = after(0.02, echo)
    with serving(slow) as one, serving(slow) as two, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(journal, one.url, concurrency=2).ask_all(questions(5))
        both = pool(journal, (one.url, two.url), concurrency=2)
        assert both.ask_all(questions(60))[:5] == first
        assert min(sum(one.seen.values()), sum(two.seen.values())) >= 20
        assert set((one.seen + two.seen).values()) == {1}
        # whichever answered: the first one alone finds it all in the journal
        assert pool(journal, one.url).ask_all(questions(60)) == both.ask_all(questions(60))
        assert len(one.seen) + len(two.seen) == 60


DEAD: dict[str, tuple[Behaviour, str]] = {
    "no key": (lambda body, seen: (401, {}, "who are you"), "the server refuses access (401"),
    "no funds": (lambda body, seen: (402, {}, "pay"), "wants to be paid first (402"),
    "broken": (lambda body, seen: (500, {}, "oops"), "10 requests in a row failed"),
    "drops": (lambda body, seen: (200, {}, None), "10 requests in a row failed"),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_address_is_left_out_and_said_once(name: str, tmp_path: Path) -> None:
    behave, said = DEAD[name]
    told = Told()
    with (
        serving(behave) as dead,
        serving(after(0.01, echo)) as alive,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        asked = pool(journal, (dead.url, alive.url), told, concurrency=4, retries=2)
        replies = asked.ask_all(questions(60))
        assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(60)]
        assert sum(dead.seen.values()) <= 14
        lines = [line for line in told.said if dead.url in line]
        assert len(lines) == 1
        assert said in lines[0]
        assert lines[0].endswith("it is left out, and the other address goes on")
        asked.ask_all(questions(9, 100))
        assert sum(dead.seen.values()) <= 14
    assert set(alive.seen.values()) == {1}


def test_one_that_dies_on_the_way_loses_nothing(tmp_path: Path) -> None:
    told, hit = Told(), threading.Event()

    def dying(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        if hit.is_set():
            return 200, {}, None
        time.sleep(0.01)
        return echo(body, seen)

    def living(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        if len(alive.seen) > 10:
            hit.set()
        return after(0.01, echo)(body, seen)

    with (
        serving(dying) as dies,
        serving(living) as alive,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        asked = pool(journal, (dies.url, alive.url), told, concurrency=4)
        replies = asked.ask_all(questions(80))
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(80)]
    assert set((dies.answered + alive.answered).values()) == {1}
    assert any("it is left out" in line for line in told.said)


def test_with_every_address_dead_the_run_pauses_and_goes_on(tmp_path: Path) -> None:
    mended = threading.Event()

    def behave(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return echo(body, seen) if mended.is_set() else (402, {}, "no credit")

    with serving(behave) as one, serving(behave) as two, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, (one.url, two.url), concurrency=2)
        with pytest.raises(UnfinishedError, match=r"paid first \(402: no credit\).*same command"):
            asked.ask_all(questions(30))
        assert sum(one.seen.values()) + sum(two.seen.values()) <= 6
        mended.set()
        assert all(r.finish == "stop" for r in asked.ask_all(questions(30)))


@pytest.mark.parametrize("url", [(), ("http://host/v1", "http://host/v1/"), ("http://a/v1", "b")])
def test_addresses_that_cannot_be_are_refused(url: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"url names no address, or one twice|no http address"):
        Endpoint(url=url, model="m")
