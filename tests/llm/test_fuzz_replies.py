"""Bodies, statuses and headers that no server should send, and journals that no disk should
hold."""

import json
import math
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.chat.types import Message
from bezoar.errors import EndpointError
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.failures import cause_of, retry_after_s, status_inside
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.openai_format import from_body, to_body
from bezoar.llm.pool import Pool
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from tests.helpers.fuzzing import TEXTS, VALUES, bounded, changed, damaged, fuzz, json_bytes

WHOLE = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Accept: fine",
                "refusal": None,
                "tool_calls": None,
                "reasoning_content": "hm",
            },
            "logprobs": {
                "content": [
                    {
                        "token": "A",
                        "logprob": -0.1,
                        "top_logprobs": [
                            {"token": "Accept", "logprob": -0.1},
                            {"token": "Reject", "logprob": -3},
                        ],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
PARTS = {
    **WHOLE,
    "choices": [
        {
            "message": {
                "content": [
                    {"type": "text", "text": "Accept"},
                    {"type": "refusal", "refusal": "no"},
                    {"type": "output_text", "text": "b"},
                ]
            }
        }
    ],
}
ERROR = {"error": {"code": 429, "message": "slow down", "status": "502", "type": "server_error"}}
BODIES = st.sampled_from([WHOLE, PARTS, ERROR]).flatmap(changed) | VALUES
DATA = BODIES.map(json_bytes) | BODIES.map(json_bytes).flatmap(damaged) | st.binary(max_size=50)
REQUESTS = st.builds(
    Request,
    st.lists(st.builds(Message, st.just("user"), TEXTS), min_size=1, max_size=2).map(tuple),
    prefill=TEXTS,
    stop=st.lists(TEXTS.filter(bool), max_size=5).map(tuple),
    choices=st.sampled_from([(), ("Accept", "Reject"), ("", "1", "10")]),
)


@fuzz(0.12, few=60)
@given(DATA, REQUESTS)
def test_every_body_becomes_a_reply_that_can_be_stored(data: bytes, request: Request) -> None:
    with bounded():
        reply = from_body(data.decode("utf-8", "replace"), request, Prices(1.0, 2.0))
        assert json.dumps(asdict(reply), allow_nan=False, ensure_ascii=False).encode()
        assert 0 <= reply.prompt_tokens < 10**9
        assert 0 <= reply.completion_tokens < 10**9
        assert math.isfinite(reply.cost_usd)
        assert reply.error if reply.finish == "error" else not reply.failure
        assert len(reply.error) < 1000
        status_inside(data.decode("utf-8", "replace"))
        json.dumps(to_body(request))


@fuzz(0.02, few=20)
@given(st.integers(100, 999), TEXTS | DATA.map(lambda data: data.decode("latin-1")))
def test_every_status_has_a_meaning(status: int, said: str) -> None:
    with bounded():
        assert cause_of(status, said) in ("passing", "request", "unclear", "endpoint")
        assert 0 <= retry_after_s(said) < math.inf


class Raw:
    """A server of bytes: it reads a request and sends `sent`, whatever that is; `num` counts
    requests."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.sent, self.num = listener, b"", 0
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    while self._request(connection):
                        self.num += 1
                        connection.sendall(self.sent)
                        if b"Content-Length" not in self.sent:
                            break
                except OSError:
                    continue

    def _request(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := connection.recv(65536)):
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < size:
            body += connection.recv(65536)
        return True


@contextmanager
def raw() -> Iterator[Raw]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Raw(listener)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An HTTP answer: proper but for its status, headers and body, or damaged as a whole."""
    body = draw(DATA)
    status = draw(
        st.sampled_from(
            [200, 200, 200, 204, 206, 301, 400, 401, 403, 404, 413, 422, 429, 500, 503, 100, 999]
        )
    )
    size = draw(
        st.sampled_from([len(body)] * 6 + [0, len(body) + 10, max(len(body) - 5, 0), -1, 2**70])
    )
    more = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Content-Encoding: gzip",
                    b"Content-Encoding: br",
                    b"Transfer-Encoding: chunked",
                    b"Retry-After: 0",
                    b"Retry-After: never",
                    b"Location: /x",
                    b"Connection: close",
                    b"Set-Cookie: a=b",
                    b"Content-Type: text/html; charset=utf-7",
                    b"X: \xff\x00",
                    b"X" * 9000 + b": y",
                    b"Content-Length: 3",
                ]
            ),
            max_size=2,
            unique=True,
        )
    )
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % size, *more]
    whole = b"\r\n".join(head) + b"\r\n\r\n" + body
    return draw(damaged(whole)) if draw(st.integers(0, 4)) == 0 else whole


@pytest.fixture(scope="module")
def server() -> Iterator[Raw]:
    with raw() as made:
        yield made


@fuzz(0.06, few=15)
@given(sent=answers(), number=st.integers(0, 2**60))
def test_every_answer_over_http_is_kept_or_a_typed_failure(
    sent: bytes, number: int, server: Raw, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server.sent, before = sent, server.num
    request = Request((Message("user", f"question {number}"),))
    with bounded(), Journal(tmp_path_factory.mktemp("journal") / "j.sqlite") as journal:

        def ask() -> list[Reply]:
            backend = Endpoint(
                url=server.url, model="m", timeout_s=0.3, retries=1, backoff_s=0.0
            ).open()
            return Pool(backend, journal, Budget(1e9, journal, run="r"), Progress()).ask([request])

        try:
            first = ask()
        except EndpointError:
            return
        asked = server.num
        # an idle connection that the server has closed may cost one more
        assert asked - before <= 3
        if not first[0].passing:
            assert ask() == first
            assert server.num == asked


QUESTIONS = [Request((Message("user", f"question {i}"),)) for i in range(20)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal's file, the same for all cases: what is drawn depends on it."""
    path = tmp_path_factory.mktemp("journal") / "j.sqlite"
    with Journal(path) as journal:
        journal.put_many(
            [
                Entry(
                    r.key("m"),
                    r,
                    Reply("answer " * 40) if i % 2 else None,
                    "m",
                    "r",
                    "s",
                    json.dumps(WHOLE),
                )
                for i, r in enumerate(QUESTIONS)
            ]
        )
    return path.read_bytes()


@fuzz(0.02, few=10)
@given(data=st.data())
def test_a_damaged_journal_is_one_sentence(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.sqlite"
    path.write_bytes(whole)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(whole, 3)))
    else:
        change: Any = data.draw(
            st.sampled_from(["reply", "request", "failed", "cost_usd", "body", "key"])
        )
        with sqlite3.connect(path) as db:
            db.execute(
                f"UPDATE replies SET {change} = ? WHERE id % 3 = 0",
                (data.draw(st.one_of(TEXTS, st.integers(-9, 9), st.binary(max_size=5))),),
            )
        db.close()
    with bounded(), Journal(path) as journal:
        found = journal.look_up(
            {r.key("m"): r for r in QUESTIONS}, lambda body, r: from_body(body, r, Prices())
        )
        assert all(isinstance(reply, Reply) for reply in found.values())
        journal.spent_usd("r")
        journal.put_many([Entry(QUESTIONS[0].key("m"), QUESTIONS[0], Reply("x"), "m", "r", "s")])
        journal.entries()
