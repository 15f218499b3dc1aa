"""What a hostile server, a locked journal and a wrong key must not cost: money, answers, or the
key."""

import base64
import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bezoar.errors import EndpointError, RecipeError, UnfinishedError
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.failures import cause_of, status_inside
from bezoar.llm.journal import Journal
from bezoar.llm.openai_format import from_body
from bezoar.llm.pool import Pool
from bezoar.llm.transport import Transport
from bezoar.llm.types import Reply
from bezoar.progress import Progress
from bezoar.secrets import hide, mask
from tests.helpers.loaded import loaded
from tests.helpers.questions import question, questions
from tests.helpers.server import Server, after, answer, echo, serving

KEY = "sk-Qw8Er7Ty6Ui5Op4As3Df2Gh1"


def pool(journal: Journal, server: Server, budget: Budget | None = None, **more: Any) -> Pool:
    endpoint = Endpoint(url=server.url, model="m", **{"backoff_s": 0.01, "retries": 2, **more})
    return Pool(endpoint.open(), journal, budget or Budget(), Progress(), stage="s")


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][0]["content"].split()[1])


# requests that are refused, and endpoints that refuse


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "bad request"),
        (400, "maximum context length"),
        (413, ""),
        (422, "{}"),
        (403, "flagged by moderation"),
    ],
)
@pytest.mark.parametrize("concurrency", [2, 16])
def test_refused_requests_are_final_and_counted(
    status: int, said: str, concurrency: int, tmp_path: Path
) -> None:
    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (status, {}, said) if number(body) < 13 else echo(body, seen)

    with serving(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(journal, server, concurrency=concurrency)
        replies = first.ask_all(questions(60))
        why = "filtered" if status == 403 else "refused"
        assert [r.failure for r in replies] == [why] * 13 + [""] * 47
        assert first.counts()["failed"] == 13
        assert pool(journal, server).ask_all(questions(60)) == replies
        assert set(server.seen.values()) == {1}


def test_an_endpoint_that_refuses_everything_is_not_finished(tmp_path: Path) -> None:
    mended = threading.Event()

    def all_refused(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return echo(body, seen) if mended.is_set() else (400, {}, "no such model")

    with serving(all_refused) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(
            UnfinishedError, match=r"were refused and none was answered.*no such model"
        ):
            pool(journal, server, concurrency=4).ask_all(questions(500))
        assert len(server.seen) < 30
        with pytest.raises(UnfinishedError, match="2 of 2 requests failed"):
            pool(journal, server).ask_all(questions(2))
        mended.set()
        assert all(r.finish == "stop" for r in pool(journal, server).ask_all(questions(500)))


@pytest.mark.parametrize(
    ("num", "refused", "concurrency"),
    [
        (40, range(30), 1),
        (200, range(120), 32),
        (200, range(199), 8),
        (60, [*range(29), *range(30, 60)], 2),
    ],
)
def test_refusals_side_by_side_end_all_the_same(
    num: int, refused: list[int], concurrency: int, tmp_path: Path
) -> None:
    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        if number(body) in refused:
            return 400, {}, "no"
        time.sleep(0.1)  # refusals come faster than answers
        return echo(body, seen)

    with serving(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        for _ in range(4):  # every run asks others first
            with suppress(UnfinishedError):
                replies = pool(journal, server, concurrency=concurrency).ask_all(questions(num))
                break
        assert [r.failure for r in replies] == [
            "refused" if i in refused else "" for i in range(num)
        ]
        assert pool(journal, server).ask_all(questions(num)) == replies


NO_ACCESS = [
    {
        "error": {
            "message": "Incorrect API key provided",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
    },
    [
        {
            "error": {
                "code": 400,
                "message": "API key expired. Please renew the API key.",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "Your credit balance is too low to access the API.",
        },
    },
    {
        "error": {
            "code": "billing_hard_limit_reached",
            "message": "",
            "type": "invalid_request_error",
        }
    },
]


@pytest.mark.parametrize("said", NO_ACCESS)
@pytest.mark.parametrize("status", [200, 400])
def test_a_400_about_the_account_stops_the_work_and_passes(
    status: int, said: Any, tmp_path: Path
) -> None:
    mended = threading.Event()

    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (
            echo(body, seen)
            if number(body) < 10 or mended.is_set()
            else (status, {}, json.dumps(said))
        )

    with serving(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(UnfinishedError, match="the server answered 400"):
            pool(journal, server, concurrency=2).ask_all(questions(60))
        assert len(server.seen) <= 14
        mended.set()
        assert all(r.finish == "stop" for r in pool(journal, server).ask_all(questions(60)))


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "You exceeded your current quota, please check your plan and billing details.",
            "endpoint",
        ),
        ('{"error": {"code": "insufficient_quota", "message": "per minute"}}', "endpoint"),
        (
            "You exceeded your current quota, please check your plan and billing details. * Quota"
            " exceeded for metric: GenerateRequestsPerMinute. Please retry in 21.4s.",
            "passing",
        ),
        (
            "Rate limit reached for requests per min. Limit: 3. Please try again in 20s. Add a"
            " payment method at example.com/account/billing.",
            "passing",
        ),
        ("Request too large on tokens per min (TPM): Limit 10000, Requested 12000.", "request"),
    ],
)
def test_what_a_429_means(said: str, cause: str) -> None:
    assert cause_of(429, said) == cause


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (402, "no", "paid"),
        (404, "no", "/v1"),
        (401, "no", "key_env"),
        (429, '{"error": {"code": "insufficient_quota"}}', "funds"),
        (307, "", "the server answered 307"),
        (405, "", "check the url"),
    ],
)
def test_an_endpoint_that_needs_a_person_stops_the_work_at_once(
    status: int, said: str, hint: str, tmp_path: Path
) -> None:
    with (
        serving(lambda body, seen: (status, {}, said)) as server,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        with pytest.raises(UnfinishedError, match=hint) as caught:
            pool(journal, server, concurrency=2).ask(questions(100))
        assert caught.value.exit_code == 3
        assert len(server.seen) <= 4


def test_an_error_inside_a_success_is_read_as_what_it_is(tmp_path: Path) -> None:
    def inside(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        codes: dict[int, Any] = {0: 502, 1: "content_filter", 2: 400}
        code = codes.get(number(body))
        return (
            (200, {}, json.dumps({"error": {"code": code, "message": "why"}}))
            if code and not (code == 502 and seen)
            else echo(body, seen)
        )

    with serving(inside) as server, Journal(tmp_path / "j.sqlite") as journal:
        assert [r.failure or r.finish for r in pool(journal, server).ask_all(questions(5))] == [
            "stop",
            "filtered",
            "refused",
            "stop",
            "stop",
        ]
        assert server.seen["question 0"] == 2
    with (
        serving(lambda body, seen: (200, {}, '{"error": {"code": 402}}')) as server,
        Journal(tmp_path / "k.sqlite") as journal,
        pytest.raises(UnfinishedError, match="paid first"),
    ):
        pool(journal, server).ask(questions(5))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"type": "invalid_request_error", "code": "context_length_exceeded"}}, 400),
        ({"error": {"type": "BadRequestError"}}, 400),
        ({"object": "error", "message": "bad", "code": 422}, 422),
        ([{"error": {"code": 429}}], 429),
        ({"error": "busy"}, None),
        ({"error": {"code": True}}, None),
        (
            {
                "choices": [
                    {"finish_reason": "error", "error": {"code": 502}, "message": {"content": ""}}
                ]
            },
            502,
        ),
        ({"choices": [7]}, None),
        ([], None),
        (7, None),
    ],
)
def test_the_status_of_an_error_inside_a_success(body: Any, status: int | None) -> None:
    assert status_inside(json.dumps(body)) == status
    assert from_body(json.dumps(body), question("hello"), Prices()).finish == "error"


def test_what_failed_for_now_is_asked_again_alone(tmp_path: Path) -> None:
    broken = {"question 3", "question 7"}

    def some(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (503, {}, "busy") if body["messages"][0]["content"] in broken else echo(body, seen)

    with serving(some) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(UnfinishedError, match=r"2 of 10 requests failed.*busy"):
            pool(journal, server).ask_all(questions(10))
        before = dict(server.seen)
        broken.clear()
        assert len(pool(journal, server).ask_all(questions(10))) == 10
        assert {p for p in before if server.seen[p] > before[p]} == {"question 3", "question 7"}


def test_requests_that_always_fail_keep_no_other_from_an_answer(tmp_path: Path) -> None:
    with (
        serving(
            lambda body, seen: (500, {}, "no") if number(body) < 12 else echo(body, seen)
        ) as server,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        for _ in range(2):
            with pytest.raises(UnfinishedError):
                pool(journal, server, concurrency=1, retries=0).ask_all(questions(40))
        assert len(server.answered) == 28


# the key


def test_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [
        KEY,
        KEY[:20],
        KEY[3:11],
        KEY[-8:],
        quote(KEY),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"u:{KEY}".encode()).decode(),
        KEY.encode().hex(),
    ]
    long = "x" * 190 + KEY

    def loose(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        said = [*forms, long][number(body) % 9]
        kinds: list[tuple[int, dict[str, str], str]] = [
            (200, {}, json.dumps({"error": {"message": said}})),
            (500, {}, said),
            (400, {}, said),
            answer(f"the answer {said}"),
            (200, {}, f'{{"choices": [{{"message": {{"content": "{said}'),
        ]
        return kinds[number(body) // 9 % 5]

    monkeypatch.setenv("SOME_KEY", f" \n{KEY}\r\n ")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: custom")
    with serving(loose) as server, Journal(tmp_path / "j.sqlite") as journal:
        replies = pool(journal, server, key_env="SOME_KEY", retries=0, concurrency=1).ask(
            questions(9, 27) + questions(5)
        )
        shown = repr(replies) + repr(journal.entries())
        assert server.keys == {f"Bearer {KEY}"}
        assert not {name.lower() for name in server.headers} & {
            "openai-organization",
            "openai-project",
            "x-secret",
        }
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode("latin-1") + shown
    parts = {form[i : i + 8] for form in forms for i in range(len(form) - 7)}
    assert not [part for part in parts if part in stored]
    assert "the answer ***" in stored


ESCAPES: list[Callable[[str], str]] = [
    lambda c: f"\\u{ord(c):04x}",
    lambda c: f"%{ord(c):02X}",
    lambda c: f"%{ord(c):02x}",
    lambda c: f"&#{ord(c)};",
    lambda c: f"&#x{ord(c):x};",
    lambda c: c.replace("/", "\\/"),
]


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("which", ["/+=-", "0123456789", "sk-Zx9+Cv8/Bn7=Mq6+We5/Rt4"])
def test_a_key_is_found_where_its_letters_are_escaped(
    escape: Callable[[str], str], which: str
) -> None:
    key = "sk-Zx9+Cv8/Bn7=Mq6+We5/Rt4"
    hide(key)
    escaped = "".join(escape(c) if c in which else c for c in key)
    for said in (escaped, "".join(escape(c) if c in which else c for c in key[5:17])):
        assert (
            mask(f'{{"caf\\u00e9 10%": "{said}", "a": "50%25"}}')
            == '{"caf\\u00e9 10%": "***", "a": "50%25"}'
        )
    body = {
        "choices": [
            {
                "message": {
                    "content": [
                        {"type": "text", "text": part}
                        for part in ("yes ", key[:7], key[7:13], "; no")
                    ]
                }
            }
        ]
    }
    assert from_body(json.dumps(body), question("hello"), Prices()).text == "yes ***; no"


@pytest.mark.parametrize(
    "value", ["sk-abc", "sk-Zx9Cv8Bn7Mq6We5Rt4Yu3Io2", "hf_Zx9Cv8Bn7Mq6We5", "MY KEY", "Bearer x"]
)
def test_a_key_in_place_of_its_name_is_refused_unseen(value: str) -> None:
    with pytest.raises(ValueError, match="never the key itself") as caught:
        Endpoint(url="http://host/v1", model="m", key_env=value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["sk-schlüssel-1234567", "sk-two words-123456", "sk-line\nbreak-123456"]
)
def test_a_key_that_cannot_be_sent_is_refused_unseen(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(EndpointError, match=r"SOME_KEY.*copy it again") as caught:
        Endpoint(url="http://127.0.0.1:9/v1", model="m", key_env="SOME_KEY").open()
    assert mask(value) == "***"
    assert value[-8:] not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"url": "https://host/v1?api-key=abc"},
        {"url": "https://host/v1?apiKey=abc"},
        {"url": "https://host/v1?access_token=abc"},
        {"url": "https://host/v1?sig=abc"},
        {"url": "https://host/sk-abcdefgh/v1"},
        {"extra": {"api_key": "abc"}},
        {"extra": {"extra_headers": {"Authorization": "Bearer abc"}}},
        {"extra": {"note": "sk-abcdefghijk"}},
        {"extra": {"n": 3}},
        {"extra": {"stream": True}},
        {"extra": {"messages": []}},
        {"extra": {"max_tokens": None}},
        {"extra": {"max_tokens": 0}},
        {"extra": {"top_k": math.nan}},
        {"timeout_s": math.nan},
        {"timeout_s": math.inf},
    ],
)
def test_settings_that_leak_or_cannot_work_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RecipeError), match=r"key_env|extra|finite") as caught:
        loaded(Endpoint(**{"url": "http://host/v1", "model": "m", **more}))
    assert "abc" not in str(caught.value)


def test_harmless_settings_are_allowed() -> None:
    Endpoint(
        url="https://host/openai/v1?api-version=2025-01-01",
        model="m",
        extra={
            "stop_token_ids": [1],
            "max_tokens": 9,
            "prompt_cache_key": "a",
            "reasoning": {"effort": "low", "max_tokens": 5},
        },
    )


def test_a_key_in_the_url_is_found_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "plain-looking-12345")
    with pytest.raises(EndpointError, match="key_env"):
        Endpoint(
            url="http://127.0.0.1:9/plain-looking-12345/v1", model="m", key_env="SOME_KEY"
        ).open()


# many in flight, and the journal


def test_more_than_a_thousand_in_flight(tmp_path: Path) -> None:
    everyone = threading.Barrier(1100, timeout=40)

    def together(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        everyone.wait()
        return echo(body, seen)

    with serving(together) as server, Journal(tmp_path / "j.sqlite") as journal:
        replies = pool(journal, server, concurrency=1100, timeout_s=60).ask_all(questions(1100))
    assert all(r.finish == "stop" for r in replies)
    assert set(server.seen.values()) == {1}


def test_the_caller_and_the_sender_change_places_soon(tmp_path: Path) -> None:
    sys.setswitchinterval(0.005)
    with serving() as server, Journal(tmp_path / "j.sqlite") as journal:
        pool(journal, server).ask(questions(1))
    assert sys.getswitchinterval() == pytest.approx(0.0005)


def test_more_than_this_machine_can_open_is_refused() -> None:
    with pytest.raises(EndpointError, match=r"allows \d+; lower concurrency to \d+"):
        Transport("http://127.0.0.1:9/v1", "", timeout_s=1.0, concurrency=10**9)


def test_nothing_is_sent_while_the_journal_is_held_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with serving() as server, Journal(path) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        replies: list[Reply] = []
        asking = threading.Thread(
            target=lambda: replies.extend(pool(journal, server, concurrency=8).ask(questions(200)))
        )
        asking.start()
        while not server.seen:
            time.sleep(0.01)
        time.sleep(0.3)
        held = sum(server.seen.values())
        other.execute("ROLLBACK")
        other.close()
        asking.join(60)
    assert 1 <= held <= 8
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(200)]
    assert set(server.seen.values()) == {1}


FILLING = """
import pathlib, resource, sys
from bezoar.chat.types import Message
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Request
from bezoar.progress import Progress
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
requests = [Request((Message("user", f"question {i}" + " x" * 200),)) for i in range(500)]
with Journal(pathlib.Path(sys.argv[2])) as journal:
    Pool(Endpoint(url=sys.argv[1], model="m", concurrency=8).open(), journal, Budget(), Progress()).ask(requests)
"""  # noqa: E501


def test_a_file_that_may_not_grow_loses_what_was_in_flight_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-c", FILLING, server.url, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "ulimit -f" in done.stderr
        with Journal(path) as journal:
            assert 8 < sum(server.answered.values()) - 8 <= len(journal.entries())


def test_two_processes_never_buy_one_question_twice(tmp_path: Path) -> None:
    got: list[list[Reply]] = []

    def ask() -> None:
        # an open file of its own, as another process has
        with Journal(tmp_path / "j.sqlite") as journal:
            got.append(pool(journal, server, concurrency=8).ask_all(questions(120)))

    with serving(after(0.02, echo)) as server:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [r.text for r in got[0]] == [f"QUESTION {i}" for i in range(120)]
    assert got[1] == got[0] == got[2]
    assert set(server.seen.values()) == {1}


# replies of odd shape

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
ODD: dict[str, tuple[Any, Reply]] = {
    "parts": (
        {
            "content": [
                {"type": "text", "text": "a "},
                {"type": "image"},
                {"type": "output_text", "text": "b"},
            ]
        },
        Reply("a b", "stop", (), 7, 3),
    ),
    "parts that are texts": ({"content": ["a", "b"]}, Reply("ab", "stop", (), 7, 3)),
    "a refusal": (
        {"content": None, "refusal": "I will not"},
        Reply("", "error", (), 7, 3, error="the model refused: I will not", failure="refused"),
    ),
    "a part that refuses": (
        {"content": [{"type": "refusal", "refusal": "no"}]},
        Reply("", "error", (), 7, 3, error="the model refused: no", failure="refused"),
    ),
    "a tool call": (
        {"content": None, "tool_calls": [{"id": 1}]},
        Reply(
            "",
            "error",
            (),
            7,
            3,
            error="the model called a tool in place of an answer",
            failure="malformed",
        ),
    ),
    "reasoning alone": ({"content": None, "reasoning_content": "hm"}, Reply("", "stop", (), 7, 3)),
    "a number": (
        {"content": 7},
        Reply(
            "",
            "error",
            (),
            7,
            3,
            error="the content of the answer is of type int, not text",
            failure="malformed",
        ),
    ),
    "images": (
        {"content": [{"type": "image"}]},
        Reply(
            "", "error", (), 7, 3, error="the answer has no part of type text", failure="malformed"
        ),
    ),
    "no message": (
        None,
        Reply(
            "",
            "error",
            (),
            7,
            3,
            error="the answer has no message that can be read (AttributeError)",
            failure="malformed",
        ),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_replies_are_stored_and_never_asked_again(name: str, tmp_path: Path) -> None:
    message, expected = ODD[name]
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})
    with (
        serving(lambda asked, seen: (200, {}, body)) as server,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        for _ in range(2):
            assert pool(journal, server).ask_all([question("hello")]) == [expected]
        assert server.seen["hello"] == 1
        assert [entry["body"] for entry in journal.entries()] == [body]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        [1],
        "many",
        {},
        {"prompt_tokens": -5, "completion_tokens": -7},
        {"prompt_tokens": True, "completion_tokens": "9"},
        {"prompt_tokens": 1e308, "completion_tokens": 10**40},
        {"prompt_tokens": 1.5, "completion_tokens": None},
        {"prompt_tokens": math.nan, "completion_tokens": math.inf},
    ],
)
def test_odd_usage_is_counted_by_characters(usage: Any) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x" * 10}}], "usage": usage})
    reply = from_body(body, question("y" * 21), Prices(1e6, 1e6))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd) == (6, 3, 9.0)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "{",
        '"x"',
        "[" * 100_000,
        '{"choices": {}}',
        '{"choices": [[]]}',
        "1" * 5000,
        '{"choices": [1]}',
        "\x00",
    ],
)
def test_no_body_raises(body: str) -> None:
    assert from_body(body, question("hello"), Prices()).finish == "error"


def test_a_body_that_was_not_read_is_read_later_and_not_asked_for(tmp_path: Path) -> None:
    with serving() as server, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(journal, server).ask(questions(3))
        with sqlite3.connect(journal.path) as db:  # as a kill leaves it between the two writes
            db.execute("UPDATE replies SET reply = '' WHERE id = 1")
            db.execute("UPDATE replies SET reply = '{\"torn' WHERE id = 2")
        assert pool(journal, server).ask(questions(3)) == first
        assert set(server.seen.values()) == {1}


@pytest.mark.parametrize(
    ("status", "headers", "start"),
    [(201, {}, ""), (206, {}, ""), (200, {"Content-Encoding": "gzip"}, ""), (200, {}, "\ufeff")],
)
def test_an_odd_way_to_answer_is_an_answer(
    status: int, headers: dict[str, str], start: str, tmp_path: Path
) -> None:
    with (
        serving(lambda body, seen: (status, headers, start + answer("yes")[2])) as server,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        assert pool(journal, server).ask_all([question("hello")])[0].text == "yes"
        assert server.seen["hello"] == 1


@pytest.mark.parametrize("more", ["[" * 100_000 + "]" * 100_000, "1" * 5000])
def test_a_whole_body_that_cannot_be_read_is_final(more: str, tmp_path: Path) -> None:
    with (
        serving(lambda body, seen: (200, {}, f'{{"id": {more}}}')) as server,
        Journal(tmp_path / "j.sqlite") as journal,
    ):
        assert pool(journal, server).ask_all([question("hello")])[0].failure == "malformed"
        assert server.seen["hello"] == 1


def test_a_reply_that_is_too_large_is_cut_and_final(tmp_path: Path) -> None:
    import gzip

    bomb = gzip.compress(answer("x" * (64 << 20))[2].encode(), 1).decode("latin-1")

    def large(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (
            200,
            {"Content-Encoding": "gzip", "Content-Length": str(len(bomb.encode("latin-1")))},
            bomb,
        )

    with serving(large, encoding="latin-1") as server, Journal(tmp_path / "j.sqlite") as journal:
        [reply] = pool(journal, server).ask_all([question("hello")])
        assert (reply.failure, server.seen["hello"]) == ("malformed", 1)
        assert "larger than" in reply.error
        assert len(journal.entries()[0]["body"]) < 9 << 20


# money


def spent(server: Server, tokens: int) -> float:
    return sum(server.answered.values()) * tokens


@pytest.mark.parametrize("reported", [40, 400])
def test_the_limit_is_passed_by_no_more_than_what_is_in_flight(
    reported: int, tmp_path: Path
) -> None:
    def dear(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        text = json.dumps(
            {
                "choices": [{"message": {"content": "x"}}],
                "usage": {"prompt_tokens": 1, "completion_tokens": reported},
            }
        )
        return 200, {}, text

    with serving(dear) as server, Journal(tmp_path / "j.sqlite") as journal:
        budget = Budget(1000.0, journal, run="r")
        asked = pool(
            journal,
            server,
            budget,
            prices=Prices(0.0, 1e6),
            extra={"max_tokens": 40},
            concurrency=4,
        )
        replies = asked.ask([question(f"question {i}", max_tokens=2) for i in range(300)])
        assert journal.spent_usd(budget.run) == spent(server, reported)
    answered = sum(r.finish == "stop" for r in replies)
    assert answered == sum(server.seen.values())
    assert answered == 25 if reported == 40 else answered * 400 <= 1000 + 4 * 400
    assert {r.failure for r in replies if r.finish == "error"} == {"budget"}


def test_two_processes_of_a_run_share_its_budget(tmp_path: Path) -> None:
    def dear(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        time.sleep(0.01)
        return (
            200,
            {},
            json.dumps(
                {
                    "choices": [{"message": {"content": "x"}}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 10},
                }
            ),
        )

    def ask(start: int) -> None:
        with Journal(tmp_path / "j.sqlite") as journal:
            budget = Budget(200.0, journal, run="r")
            pool(journal, server, budget, prices=Prices(0.0, 1e6), concurrency=4).ask(
                [question(f"question {i}", max_tokens=10) for i in range(start, start + 40)]
            )

    with serving(dear) as server:
        threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sum(server.answered.values()) == 20
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.spent_usd("r") == 200.0


def test_a_budget_that_a_killed_process_held_comes_free(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as gone:
        Budget(10.0, gone, run="r").reserve([8.0])
    with Journal(tmp_path / "j.sqlite") as journal:
        assert Budget(10.0, journal, run="r").reserve([8.0]) == (1, 0.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_money_is_finite(wrong: float) -> None:
    with pytest.raises(RecipeError, match=r"must be (a finite|greater)"):
        loaded(Prices(wrong))
    with pytest.raises(ValueError, match="finite"):
        Budget(wrong)


def test_attempts_that_were_cut_short_are_paid_for(tmp_path: Path) -> None:
    def cut(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return (200, {}, "x" * 40) if seen < 2 else answer("done")

    with serving(cut) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server, Budget(100.0, journal, run="r"), prices=Prices(0.0, 1e6))
        assert asked.ask_all([question("hello", max_tokens=20)])[0].cost_usd == 5
        assert journal.spent_usd("r") == 5 + 2 * 10
        assert [entry["body"][:4] for entry in journal.entries()] == ["xxxx", "xxxx", '{"id']


def test_a_cut_body_after_the_last_retry_is_paid_for_once(tmp_path: Path) -> None:
    cut = lambda body, seen: (200, {}, "x" * 40)  # noqa: E731
    with serving(cut) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(journal, server, Budget(100.0, journal, run="r"), prices=Prices(0.0, 1e6))
        [reply] = asked.ask([question("hello", max_tokens=20)])
        assert (reply.failure, reply.cost_usd, server.seen["hello"]) == ("passing", 10, 3)
        assert journal.spent_usd("r") == 3 * 10
        assert [entry["body"] for entry in journal.entries()] == ["x" * 40] * 3


def test_an_old_journal_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE replies (id INTEGER PRIMARY KEY, key TEXT NOT NULL, request TEXT NOT"
            " NULL, reply TEXT NOT NULL, model TEXT NOT NULL, run TEXT NOT NULL, stage TEXT NOT"
            " NULL, time_s REAL NOT NULL, failed INTEGER NOT NULL, cost_usd REAL NOT NULL)"
        )
        reply = (
            '{"text": "old", "finish": "stop", "logprobs": [], "prompt_tokens": 1,'
            ' "completion_tokens": 2, "cost_usd": 0.5, "error": ""}'
        )
        db.execute(
            "INSERT INTO replies VALUES (1, 'k', '{}', ?, 'm', 'r', 's', 0, 0, 0.5)", (reply,)
        )
        db.execute("PRAGMA user_version = 1")
    with Journal(path) as journal:
        assert journal.get_many(["k"])["k"].text == "old"
        assert journal.spent_usd("r") == 0.5
    assert path.stat().st_mode & 0o777 == 0o600
