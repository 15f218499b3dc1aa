"""The endpoint backend against a server on 127.0.0.1 that misbehaves."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.tool_calls import BadCall, read_answer, read_calls
from bezoar.chat.types import Message, Tool, ToolCall
from bezoar.errors import EndpointError
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.openai_format import from_body, match_choices, to_body
from bezoar.llm.pool import Pool
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from tests.helpers.questions import question, questions
from tests.helpers.server import Behaviour, answer, echo, serving


def pool(journal: Journal, url: str, **more: Any) -> Pool:
    endpoint = Endpoint(url=url, model="m", **{"backoff_s": 0.01, **more})
    return Pool(endpoint.open(), journal, Budget(), Progress(), stage="s")


def ask_once(url: str, request: Request, folder: Path, **more: Any) -> Reply:
    with Journal(folder / "one.sqlite") as journal:
        return pool(journal, url, **more).ask([request])[0]


def test_many_in_flight_each_once_in_order(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        time.sleep(0.02 if body["messages"][0]["content"].endswith("0") else 0.002)
        return echo(body, seen)

    with serving(slow) as server, Journal(tmp_path / "j.sqlite") as journal:
        replies = pool(journal, server.url, concurrency=8).ask(questions(60))
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(60)]
    assert set(server.seen.values()) == {1}
    assert 2 <= server.most_at_once <= 8


PASSING: dict[str, Behaviour] = {
    "429": lambda body, seen: (429, {"Retry-After": "0.2"}, '{"error": "slow down"}'),
    "429 with a date": lambda body, seen: (
        429,
        {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
        "{}",
    ),
    "500": lambda body, seen: (500, {}, "oops"),
    "503": lambda body, seen: (503, {}, "<html>busy</html>"),
    "cut JSON": lambda body, seen: (200, {}, answer("half")[2][:60]),
    "not JSON": lambda body, seen: (200, {"Content-Type": "text/html"}, "<html>"),
    "no choices": lambda body, seen: (200, {}, '{"choices": []}'),
    "an error inside": lambda body, seen: (200, {}, '{"error": {"message": "upstream"}}'),
    "fewer bytes than promised": lambda body, seen: (200, {"Content-Length": "5000"}, '{"choices"'),
    "broken connection": lambda body, seen: (200, {}, None),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(name: str, tmp_path: Path) -> None:
    def twice(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        return PASSING[name](body, seen) if seen < 2 else echo(body, seen)

    with serving(twice) as server:
        started = time.monotonic()
        reply = ask_once(
            server.url, question("hello"), tmp_path, timeout_s=5 if "bytes" not in name else 0.5
        )
        seconds = time.monotonic() - started
    assert reply.text == "HELLO"
    assert server.seen["hello"] == 3
    assert seconds >= (0.4 if name == "429" else 0), "Retry-After is not heeded"


def test_a_slow_answer_times_out_and_is_tried_again(tmp_path: Path) -> None:
    def late(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        time.sleep(0.0 if seen else 1.0)
        return echo(body, seen)

    with serving(late) as server:
        assert ask_once(server.url, question("hello"), tmp_path, timeout_s=0.3).text == "HELLO"
    assert server.seen["hello"] == 2


def test_a_failed_request_is_a_record_and_is_asked_again_next_time(tmp_path: Path) -> None:
    broken = {"question 3"}

    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (500, {}, "oops") if body["messages"][0]["content"] in broken else echo(body, seen)

    with serving(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(journal, server.url, retries=2)
        replies = first.ask(questions(6))
        assert [r.finish for r in replies] == ["stop"] * 3 + ["error"] + ["stop"] * 2
        assert "500" in replies[3].error
        assert first.counts()["failed"] == 1
        assert server.seen["question 3"] == 3
        assert len(journal.entries()) == 6
        broken.clear()
        again = pool(journal, server.url).ask(questions(6))
        assert again[3].text == "QUESTION 3"
        assert server.seen["question 3"] == 4
        assert all(server.seen[f"question {i}"] == 1 for i in (0, 1, 2, 4, 5))


def test_a_refused_request_is_not_repeated(tmp_path: Path) -> None:
    with serving(lambda body, seen: (400, {}, '{"error": "the context is too long"}')) as server:
        reply = ask_once(server.url, question("hello"), tmp_path)
    assert reply.finish == "error"
    assert "context is too long" in reply.error
    assert server.seen["hello"] == 1


@pytest.mark.parametrize(("status", "hint"), [(401, "SOME_KEY"), (403, "SOME_KEY"), (404, "/v1")])
def test_refusals_stop_at_once_and_keep_what_was_answered(
    status: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_ten(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        number = int(body["messages"][0]["content"].split()[1])
        if number < 10:
            time.sleep(0.3 if number == 7 else 0)  # still in flight when the refusal comes
            return echo(body, seen)
        return status, {}, '{"error": "no, sk-secret-123 is wrong"}'

    monkeypatch.setenv("SOME_KEY", "sk-secret-123")
    with serving(after_ten) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(EndpointError) as caught:
            pool(journal, server.url, key_env="SOME_KEY", concurrency=4).ask(questions(200))
        assert server.url in str(caught.value)
        assert hint in str(caught.value)
        assert "sk-secret" not in str(caught.value)
        assert len(server.seen) < 30
        kept = {
            e["request"]["messages"][0]["content"]
            for e in journal.entries()
            if e["reply"]["finish"] == "stop"
        }
        assert kept == {f"question {i}" for i in range(10)}
    assert "Bearer sk-secret-123" in server.keys
    assert b"sk-secret" not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_a_dead_endpoint_stops_after_ten_failures(tmp_path: Path) -> None:
    with (
        serving(lambda body, seen: (500, {}, "oops")) as server,
        Journal(tmp_path / "j.sqlite") as journal,
        pytest.raises(EndpointError, match=r"10 requests in a row failed.*500: oops"),
    ):
        pool(journal, server.url, retries=1, concurrency=4).ask(questions(100))
    assert 10 <= len(server.seen) <= 14


def test_a_refused_connection_says_so_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(EndpointError, match=rf"127\.0\.0\.1:{port}.*refused; start the server"):
        ask_once(f"http://127.0.0.1:{port}/v1", question("hello"), tmp_path, backoff_s=5.0)
    assert time.monotonic() - started < 4


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "NO_SUCH_KEY" not in os.environ
    with pytest.raises(EndpointError, match=r"NO_SUCH_KEY.*export"):
        Endpoint(url="http://127.0.0.1:9/v1", model="m", key_env="NO_SUCH_KEY").open()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://user:secret@host/v1", ""]
)
def test_bad_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|key_env"):
        Endpoint(url=url, model="m")


def test_the_identity_holds_what_changes_answers_and_no_more() -> None:
    one = Endpoint(
        url="http://host/v1/", model="m", key_env="A", concurrency=2, extra={"b": 1, "a": 2}
    )
    assert (
        one.identity
        == Endpoint(url="http://host/v1", model="m", key_env="B", extra={"a": 2, "b": 1}).identity
    )
    assert one.identity != Endpoint(url="http://host/v1", model="m").identity
    assert (
        one.identity != Endpoint(url="http://host/v1", model="n", extra={"b": 1, "a": 2}).identity
    )


def test_the_body(tmp_path: Path) -> None:
    request = question(
        "hi",
        temperature=0.7,
        top_p=0.9,
        max_tokens=9,
        stop=("a", "b", "c", "d", "e"),
        prefill="<x>",
        seed=4,
    )
    with serving(lambda body, seen: answer("<x> one e two", "length")) as server:
        reply = ask_once(server.url, request, tmp_path, extra={"min_p": 0.1})
    body = server.bodies[0]
    assert body["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<x>"},
    ]
    assert {
        k: body[k] for k in ("model", "temperature", "top_p", "max_tokens", "seed", "min_p", "stop")
    } == {
        "model": "m",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 9,
        "seed": 4,
        "min_p": 0.1,
        "stop": ["a", "b", "c", "d"],
    }
    assert reply == Reply(" on", "length", prompt_tokens=10, completion_tokens=5)


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    with serving(lambda body, seen: answer("a\ud83d b \ud83d\ude00")) as server:
        assert ask_once(server.url, question("hello"), tmp_path).text == "a\ufffd b \U0001f600"
        assert "surrogate" in ask_once(server.url, question("half \ud83d"), tmp_path).error


def test_tool_calls_are_written_with_ids() -> None:
    calls = (ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2}))
    messages = (
        Message("user", "sum"),
        Message("assistant", "", calls),
        Message("tool", "3"),
        Message("tool", "4"),
    )
    body = to_body(Request(messages))["messages"]
    assert [c["id"] for c in body[1]["tool_calls"]] == [
        body[2]["tool_call_id"],
        body[3]["tool_call_id"],
    ]
    assert json.loads(body[1]["tool_calls"][1]["function"]["arguments"]) == {"a": 2}


def test_choices_are_read_from_the_first_token(tmp_path: Path) -> None:
    top = [
        {"token": " acc", "logprob": -0.1},
        {"token": "Rej", "logprob": -2.5},
        {"token": "reject", "logprob": -3.0},
    ]
    with serving(
        lambda body, seen: answer(
            "acc", logprobs={"content": [{"token": " acc", "top_logprobs": top}]}
        )
    ) as server:
        reply = ask_once(server.url, question("good?", choices=(" accept", " reject")), tmp_path)
    assert reply.logprobs == (-0.1, -3.0)
    assert (
        server.bodies[0]["max_tokens"],
        server.bodies[0]["logprobs"],
        server.bodies[0]["top_logprobs"],
    ) == (1, True, 20)


@pytest.mark.parametrize(
    "logprobs", [None, {"content": []}, {"content": [{"token": "a", "top_logprobs": []}]}]
)
def test_without_logprobs_choices_are_an_error(logprobs: Any, tmp_path: Path) -> None:
    with (
        serving(lambda body, seen: answer("a", logprobs=logprobs)) as server,
        pytest.raises(EndpointError, match=r"no log-probabilities.*verdict: text"),
    ):
        ask_once(server.url, question("good?", choices=("accept", "reject")), tmp_path)


def test_matching_of_choices() -> None:
    top = [("1", -0.2), ("10", -2.0), (" 2", -3.0), ("2", -4.0), ("x", -9.0)]
    assert match_choices(top, ("1", "2", "10")) == (-0.2, -3.0, -2.0)
    assert match_choices(top, ("1", "7")) == (-0.2, -9.0)
    assert match_choices(top[:1], ("1", "10")) == ()  # "10" may be written as "1", "0"
    assert match_choices(top, ("yes", "no")) == ()
    assert match_choices([("ac", -0.1), ("b", -3.0)], ("accept", "acid", "b")) == (-3.0, -3.0, -3.0)


def test_cost_and_tokens(tmp_path: Path) -> None:
    with serving() as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server.url, prices=Prices(100.0, 1000.0))
        replies = asked.ask(questions(3))
        assert [r.cost_usd for r in replies] == [pytest.approx((10 * 100 + 5 * 1000) / 1e6)] * 3
        assert asked.counts()["cost_usd"] == asked.counts()["paid_now_usd"] == pytest.approx(0.018)
        again = pool(journal, server.url, prices=Prices(100.0, 1000.0))
        again.ask(questions(3))
        assert (again.counts()["cost_usd"], again.counts()["paid_now_usd"]) == (
            pytest.approx(0.018),
            0,
        )


def test_tools_are_offered_and_calls_come_back_as_text() -> None:
    tool = Tool("f", "Does f.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    request = Request((Message("system", "", tools=(tool,)), Message("user", "q")))
    body = to_body(request)
    assert body["tools"] == [tool.to_json()]
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert "tools" not in to_body(Request((Message("user", "q"),)))
    function = {"name": "f", "arguments": '{"a": 1}'}
    message = {"content": "Now:", "tool_calls": [{"id": "c", "function": function}] * 2}
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    reply = from_body(json.dumps(answer), request, Prices())
    assert reply.finish == "stop"
    assert read_answer(reply.text) == Message("assistant", "Now:", (ToolCall("f", {"a": 1}),) * 2)
    message |= {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}
    (bad,) = read_calls(from_body(json.dumps(answer), request, Prices()).text)
    assert isinstance(bad, BadCall)
    message["tool_calls"] = [{"id": 1}]
    assert from_body(json.dumps(answer), request, Prices()).finish == "error"
