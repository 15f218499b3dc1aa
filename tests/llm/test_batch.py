"""The batch API over HTTP: half price, chunks, restarts, and what is sent again."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import bezoar.llm.batch
from bezoar.cost import RequestEstimate, exactly, price
from bezoar.errors import BudgetError, UnfinishedError
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Batch, Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.progress import Progress
from tests.helpers.batch_server import NO_ROOM, BatchServer, Line, capitals, serving_batches
from tests.helpers.questions import question, questions
from tests.helpers.server import answer


def pool(journal: Journal, server: BatchServer, budget: Budget | None = None, **more: Any) -> Pool:
    batch = Batch(**{"poll_s": 0.02, "price_share": 0.5, **more.pop("batch", {})})
    how = {"backoff_s": 0.01, "retries": 2, "prices": Prices(1e6, 1e6), **more}
    endpoint = Endpoint(server.url, "m", batch=batch, **how)
    return Pool(endpoint.open(), journal, budget or Budget(), Progress(), stage="s")


def test_batches_in_chunks_at_half_the_price_in_order(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server, Budget(1e9, journal, run="r"), batch={"max_requests": 10})
        replies = asked.ask_all(questions(25))
        assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(25)]
        sizes = [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches]
        assert sizes == [10, 10, 5]
        assert {b["completion_window"] for b in server.batches} == {"24h"}
        # 10 tokens of prompt and 5 of answer, a dollar each, of which half is paid
        assert [r.cost_usd for r in replies] == [7.5] * 25
        assert journal.spent_usd("r") == 25 * 7.5
        num = len(server.calls)
        # the same keys as without batches: nothing is asked again, in whichever way
        direct = Endpoint(server.url, "m", prices=Prices(1e6, 1e6)).open()
        again = Pool(direct, journal, Budget(), Progress()).ask_all(questions(25))
        assert again == replies == pool(journal, server).ask_all(questions(25))
        assert len(server.calls) == num
    assert set(server.bought.values()) == {1}


def test_only_what_is_missing_is_sent_again(tmp_path: Path) -> None:
    ok = lambda prompt: (200, json.loads(answer(prompt.upper())[2]))  # noqa: E731

    def some(prompt: str, seen: int) -> Line:
        first: dict[str, Line] = {
            "question 1": None,
            "question 2": (429, {"error": {"message": "slow down"}}),
            "question 3": (500, {"error": "oops"}),
            "question 4": '{"custom_id": "tr',
            "question 5": (200, {"choices": []}),
            "question 6": (200, {"error": {"code": 503, "message": "busy"}}),
        }
        if prompt == "question 7":
            return 400, {"error": {"message": "maximum context length"}}
        return first[prompt] if prompt in first and not seen else ok(prompt)

    with serving_batches(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server)
        replies = asked.ask_all(questions(20))
        assert [r.text for r in replies if r.failure != "refused"] == [
            f"QUESTION {i}" for i in range(20) if i != 7
        ]
        assert replies[7].failure == "refused"
        assert asked.counts()["sent_again"] == 6
        again = {f"question {i}" for i in range(1, 7)}
        assert server.seen == {f"question {i}": 1 + (f"question {i}" in again) for i in range(20)}
        assert len(server.batches) == 2
        assert pool(journal, server).ask_all(questions(20)) == replies
        assert len(server.batches) == 2


def test_what_always_fails_ends_unfinished_and_is_asked_alone(tmp_path: Path) -> None:
    mended = threading.Event()

    def some(prompt: str, seen: int) -> Line:
        bad = prompt in ("question 3", "question 4") and not mended.is_set()
        return (500, {"error": "oops"}) if bad else capitals(prompt, seen)

    with serving_batches(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(UnfinishedError, match=r"2 of 10 requests failed.*oops"):
            pool(journal, server, retries=1).ask_all(questions(10))
        mended.set()
        assert len(pool(journal, server).ask_all(questions(10))) == 10
        assert server.seen["question 3"] == server.seen["question 4"] == 3
    assert set(server.bought.values()) == {1}


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_ends_early_keeps_what_was_answered(status: str, tmp_path: Path) -> None:
    def half(prompt: str, seen: int) -> Line:
        return None if not seen and prompt >= "question 5" else capitals(prompt, seen)

    with serving_batches(half) as server, Journal(tmp_path / "j.sqlite") as journal:
        server.status = status
        replies = pool(journal, server).ask_all(questions(10))
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(10)]
    assert set(server.bought.values()) == {1}


@pytest.mark.parametrize(
    ("call", "status", "said", "hint"),
    [
        ("POST /files", 401, "no", "check key_env"),
        ("POST /batches", 402, "no credit", "paid first"),
        ("POST /files", 404, "no", "/v1"),
        ("POST /batches", 429, '{"error": {"code": "insufficient_quota"}}', "funds"),
        ("GET /batches/batch-0", 503, "busy", "does not answer"),
        ("POST /files", 200, "<html>", "no batch API"),
    ],
)
def test_a_server_that_refuses_pauses_and_goes_on(
    call: str, status: int, said: str, hint: str, tmp_path: Path
) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        server.fail = lambda asked: (status, said) if asked == call else None
        with pytest.raises(UnfinishedError, match=rf"{hint}.*run the same command"):
            pool(journal, server).ask_all(questions(5))
        server.fail = lambda asked: None
        assert len(pool(journal, server).ask_all(questions(5))) == 5
    assert set(server.bought.values()) == {1}


def test_a_refused_account_inside_a_batch_keeps_the_others(tmp_path: Path) -> None:
    funded = threading.Event()

    def some(prompt: str, seen: int) -> Line:
        broke = prompt == "question 2" and not funded.is_set()
        return (402, {"error": "no credit"}) if broke else capitals(prompt, seen)

    with serving_batches(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(UnfinishedError, match=r"paid first \(402"):
            pool(journal, server).ask_all(questions(5))
        funded.set()
        assert len(pool(journal, server).ask_all(questions(5))) == 5
    assert set(server.bought.values()) == {1}
    assert server.seen["question 2"] == 2


def test_a_batch_that_the_server_refuses_says_why(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        server.status = "failed"
        server.errors = {"data": [{"code": "model_not_found", "message": "no model m"}]}
        with pytest.raises(UnfinishedError, match=r"batch-0 \(model_not_found: no model m\)"):
            pool(journal, server).ask_all(questions(3))
        server.status = "completed"
        assert len(pool(journal, server).ask_all(questions(3))) == 3


def test_a_server_without_room_is_asked_later(tmp_path: Path) -> None:
    with serving_batches(polls=0) as server, Journal(tmp_path / "j.sqlite") as journal:
        server.status = "failed"
        server.errors = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued"}]}

        def room(call: str) -> None:
            if len(server.batches) == 3:
                server.status, server.errors = "completed", None

        server.fail = room  # type: ignore[assignment]
        assert len(pool(journal, server).ask_all(questions(3))) == 3
    assert set(server.bought.values()) == {1}


def test_a_batch_that_is_too_large_for_the_server_ends_the_run(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        server.most = 4
        with pytest.raises(UnfinishedError, match=r"no room.*lower batch.max_requests"):
            pool(journal, server).ask_all(questions(10))
        assert len(server.batches) == 3
        assert len(pool(journal, server, batch={"max_requests": 4}).ask_all(questions(10))) == 10
    assert set(server.bought.values()) == {1}


def test_what_has_no_room_is_uploaded_again_when_a_batch_has_ended(tmp_path: Path) -> None:
    with serving_batches(polls=4) as server, Journal(tmp_path / "j.sqlite") as journal:
        look = server.look

        def one_at_a_time(batch: dict[str, Any]) -> dict[str, Any]:
            earlier = server.batches[: server.batches.index(batch)]
            if any(other["status"] == "in_progress" for other in earlier):
                batch.update(status="failed", errors=NO_ROOM)
            return look(batch)

        server.look = one_at_a_time  # type: ignore[method-assign]
        assert len(pool(journal, server, batch={"max_requests": 4}).ask_all(questions(12))) == 12
        assert len(server.batches) == 3 + 2 + 1
    assert set(server.bought.values()) == {1}


def test_an_answer_of_the_server_that_is_lost_buys_nothing_twice(tmp_path: Path) -> None:
    for call in ("POST /batches", "GET /batches/batch-0", "POST /files", "GET /batches"):
        with serving_batches() as server, Journal(tmp_path / f"{len(call)}.sqlite") as journal:
            server.lost = {call}
            assert len(pool(journal, server).ask_all(questions(4))) == 4
        assert set(server.bought.values()) == {1}, call


def break_off(server: BatchServer, file: str, num_lines: int, cuts: int) -> list[str]:
    """Let files of a name end after `num_lines`, `cuts` times; the cuts to come."""
    to_come, whole = [file] * cuts, server.handle

    def handle(handler: http.server.BaseHTTPRequestHandler) -> None:
        if to_come and handler.path.startswith(f"/v1/files/{file}"):
            to_come.pop()
            data = server.files[handler.path.split("/")[3]]
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(b"".join(data.splitlines(keepends=True)[:num_lines]))
            handler.close_connection = True
        else:
            whole(handler)

    server.handle = handle  # type: ignore[method-assign]
    return to_come


def test_a_file_that_breaks_off_is_fetched_again(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        to_come = break_off(server, "output", 2, cuts=1)
        assert len(pool(journal, server).ask_all(questions(6))) == 6
        assert not to_come
    assert set(server.bought.values()) == {1}


@pytest.mark.parametrize("retries", [2, 1])  # with one, the second cut ends the run
def test_a_file_that_breaks_off_is_charged_once(
    retries: int, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(bezoar.llm.batch, "_AT_ONCE", 2)

    def second(prompt: str, seen: int) -> Line:
        body = json.loads(answer(prompt.upper())[2])
        return 200, body if seen else {**body, "choices": []}

    with serving_batches(second) as server, Journal(tmp_path / "j.sqlite") as journal:
        to_come = break_off(server, "output", 3, cuts=2)
        how = {"prices": Prices(0.0, 1e6), "retries": retries}
        if retries == 1:
            with pytest.raises(UnfinishedError, match="broke off"):
                pool(journal, server, Budget(1e4, journal, run="r"), **how).ask_all(questions(6))
        asked = pool(journal, server, Budget(1e4, journal, run="r"), **how)
        assert len(asked.ask_all(questions(6))) == 6
        assert not to_come
        # 12 answers of 5 tokens, a dollar each, of which half is paid
        assert journal.spent_usd("r") == 30.0
    assert set(server.bought.values()) == {2}


def test_a_file_that_breaks_off_uses_up_no_retry(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bezoar.llm.batch, "_AT_ONCE", 2)
    slow: Line = (429, {"error": {"message": "slow down"}})
    some = lambda prompt, seen: capitals(prompt, seen) if seen else slow  # noqa: E731
    with serving_batches(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        to_come = break_off(server, "error", 3, cuts=1)
        asked = pool(journal, server, retries=1)
        assert len(asked.ask_all(questions(6))) == 6
        assert not to_come
        assert asked.counts()["sent_again"] == 6


def test_the_key_is_sent_and_kept_nowhere(tmp_path: Path, monkeypatch: Any) -> None:
    key = "sk-Zz9Yy8Xx7Ww6Vv5Uu4Tt"
    monkeypatch.setenv("SOME_KEY", key)
    loose = lambda prompt, seen: (200, json.loads(answer(f"it is {key}")[2]))  # noqa: E731
    with serving_batches(loose) as server, Journal(tmp_path / "j.sqlite") as journal:
        replies = pool(journal, server, key_env="SOME_KEY").ask_all(questions(2))
        assert server.keys == {f"Bearer {key}"}
    assert [r.text for r in replies] == ["it is ***"] * 2
    assert key[:8].encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_the_budget_bounds_batches(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        budget = Budget(200.0, journal, run="r")
        ask = [question(f"question {i}", max_tokens=5) for i in range(40)]
        with pytest.raises(BudgetError, match="raise budget_usd"):
            pool(journal, server, budget).ask_all(ask)
        assert 0 < journal.spent_usd("r") <= 200
        done = sum(server.bought.values())
        assert 0 < done < 40
        more = Budget(1e6, journal, run="r")
        assert len(pool(journal, server, more).ask_all(ask)) == 40
    assert set(server.bought.values()) == {1}


SHORT = [question(f"question {i}", max_tokens=5) for i in range(20)]


def stopped(journal: Journal, server: BatchServer, *args: Any, **more: Any) -> None:
    """Questions that were sent in a batch by a run that then had to stop."""
    server.fail = lambda call: (503, "busy") if call.startswith("GET /batches/") else None
    with pytest.raises(UnfinishedError, match="does not answer"):
        pool(journal, server, *args, **more).ask_all(SHORT)
    server.fail = lambda call: None


def test_what_stopped_runs_have_sent_stays_within_the_budget(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        how = {"prices": Prices(0.0, 1e6)}
        for _ in range(3):
            stopped(journal, server, Budget(20.0, journal, run="r"), **how)
        assert len(server.batches) == 1
        with pytest.raises(BudgetError, match="raise budget_usd"):
            pool(journal, server, Budget(20.0, journal, run="r"), **how).ask_all(SHORT)
        assert journal.spent_usd("r") <= 20.0


@pytest.mark.parametrize("gone", ["/batches/batch-0", "/files/output_file_id-batch-0/content"])
def test_a_batch_that_the_server_has_forgotten_is_sent_again(gone: str, tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        stopped(journal, server)
        server.fail = lambda call: (404, "no such thing") if call == f"GET {gone}" else None
        assert len(pool(journal, server).ask_all(SHORT)) == 20
        assert len(server.batches) == 2


def test_a_batch_that_is_not_found_once_is_still_there(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        stopped(journal, server)
        misses = iter(["GET /batches/batch-0"] * 2)
        server.fail = lambda call: (404, "no page") if call == next(misses, "") else None
        assert len(pool(journal, server).ask_all(SHORT)) == 20
        assert len(server.batches) == 1
    assert set(server.bought.values()) == {1}


def test_batches_that_are_never_found_again_end(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        server.fail = lambda call: (404, "no route") if call.startswith("GET /files/") else None
        with pytest.raises(UnfinishedError, match="20 of 20 requests failed"):
            pool(journal, server, retries=1).ask_all(SHORT)
        assert len(server.batches) == 2


@pytest.mark.parametrize("status", [503, 400])
def test_a_batch_that_was_never_made_holds_no_money_and_no_request(
    status: int, tmp_path: Path
) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        server.fail = lambda call: (status, "no") if call == "POST /batches" else None
        with pytest.raises(UnfinishedError):
            pool(journal, server, Budget(1e6, journal, run="r")).ask_all(SHORT)
        server.fail = lambda call: None
        if status == 400:
            direct = Endpoint(server.url, "m").open()
            assert len(Pool(direct, journal, Budget(), Progress()).ask_all(SHORT)) == 20
        else:
            with pytest.raises(BudgetError):
                pool(journal, server, Budget(1.0, journal, run="r")).ask_all(SHORT)
        assert not server.batches


def test_what_lies_in_batches_is_not_asked_one_by_one(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        stopped(journal, server)
        direct = Endpoint(server.url, "m").open()
        with pytest.raises(UnfinishedError, match=r"20 of .*put `batch` back"):
            Pool(direct, journal, Budget(), Progress()).ask_all([*SHORT, *questions(10)])
        assert "POST /chat/completions" not in server.calls
        assert len(pool(journal, server).ask_all(SHORT)) == 20
        assert (
            len(Pool(direct, journal, Budget(), Progress()).ask_all([*SHORT, *questions(10)])) == 30
        )
    assert set(server.bought.values()) == {1}


ASK = """
import sys, pathlib
from bezoar.chat.types import Message
from bezoar.llm.types import Request
from bezoar.llm.endpoint import Batch, Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.budget import Budget
from bezoar.llm.pool import Pool
from bezoar.progress import Progress
requests = [Request((Message("user", f"question {i}"),)) for i in range(30)]
batch = Batch(poll_s=0.02, max_requests=10)
with Journal(pathlib.Path(sys.argv[2])) as journal:
    backend = Endpoint(url=sys.argv[1], model="m", batch=batch, backoff_s=0.01).open()
    print([r.text for r in Pool(backend, journal, Budget(), Progress()).ask_all(requests)])
"""


@pytest.mark.parametrize("call", ["POST /files", "POST /batches", "GET /batches/batch-1"])
def test_a_killed_run_finds_its_batches_again(call: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, "", str(tmp_path / "j.sqlite")]
    with serving_batches(polls=3) as server:
        command[3] = server.url
        reached, go_on = threading.Event(), threading.Event()

        def hold(asked: str) -> None:
            # the second batch: the first is at the server, the third is not
            if asked == call and server.calls.count(call) == 2 and not go_on.is_set():
                reached.set()

        server.fail = hold  # type: ignore[assignment]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert reached.wait(30)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        go_on.set()
        time.sleep(0.1)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str([f"QUESTION {i}" for i in range(30)])
        assert len(server.bought) == 30
    assert set(server.bought.values()) == {1}
    assert len(server.batches) == 3


def test_two_processes_buy_nothing_twice(tmp_path: Path) -> None:
    got = []

    def ask() -> None:
        with Journal(tmp_path / "j.sqlite") as journal:
            got.append(pool(journal, server, batch={"max_requests": 7}).ask_all(questions(30)))

    with serving_batches(polls=2) as server:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [r.text for r in got[0]] == [f"QUESTION {i}" for i in range(30)]
    assert got[0] == got[1] == got[2]
    assert set(server.bought.values()) == {1}
    assert len(server.batches) == 5


def test_probes_do_not_wait_for_a_batch(tmp_path: Path) -> None:
    with serving_batches() as server, Journal(tmp_path / "j.sqlite") as journal:
        pool(journal, server).ask_all([question("begin", prefill="yes")])
        assert "POST /chat/completions" in server.calls
        assert len(server.batches) == 1


@pytest.mark.parametrize("more", [{"url": ("http://a/v1", "http://b/v1")}, {"prices": None}])
def test_settings_without_effect_are_refused(more: dict[str, Any]) -> None:
    how = {"url": "http://a/v1", "prices": Prices(1.0, 1.0), "batch": Batch(price_share=0.5)}
    with pytest.raises(ValueError, match=r"one address|no effect without prices"):
        Endpoint(**{"model": "m", **how, **more})


def test_a_plan_counts_what_a_batch_costs() -> None:
    calls = RequestEstimate(exactly(10), exactly(100), exactly(50))
    how = {"url": "http://a/v1", "model": "m", "prices": Prices(1.0, 4.0)}
    full, half = Endpoint(**how), Endpoint(**how, batch=Batch(price_share=0.5))
    assert price(calls, full).expected == pytest.approx(0.003)
    assert price(calls, half).expected == pytest.approx(0.0015)
