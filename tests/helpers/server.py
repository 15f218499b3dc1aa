"""A small chat-completions server on 127.0.0.1 that does what a test tells it to, and counts."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.helpers.local_http import listening

Behaviour = Callable[[dict[str, Any], int], tuple[int, dict[str, str], str | None]]
"""(body, how often this prompt was seen before) -> status, headers, text; None as text breaks the
connection."""


def answer(text: str, finish: str = "stop", **more: Any) -> tuple[int, dict[str, str], str]:
    """A proper answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        **more,
    }
    body = {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    return 200, {}, json.dumps(body)


def echo(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
    """The last message in capitals."""
    return answer(body["messages"][-1]["content"].upper())


def accept(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
    """A judge's verdict."""
    return answer("Accept: good")


def after(seconds: float, behaviour: Behaviour) -> Behaviour:
    """The same, so much later."""

    def late(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        time.sleep(seconds)
        return behaviour(body, seen)

    return late


class Server:
    """What was asked: `seen` counts prompts that arrived, `answered` those that were answered with
    200."""

    def __init__(self, behaviour: Behaviour, encoding: str) -> None:
        self.behaviour, self.lock, self.encoding = behaviour, threading.Lock(), encoding
        self.seen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.headers: set[str] = set()
        self.most_at_once = self.at_once = 0
        self.url = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with self.lock:
            before = self.seen[prompt]
            self.seen[prompt] += 1
            self.bodies.append(body)
            self.headers |= set(handler.headers)
            self.keys.add(handler.headers.get("Authorization", ""))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            status, headers, text = self.behaviour(body, before)
        finally:
            with self.lock:
                self.at_once -= 1
        if text is None or has_left(handler.connection):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        data = text.encode(self.encoding)
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
        if status == 200:
            with self.lock:
                self.answered[prompt] += 1


def has_left(connection: socket.socket) -> bool:
    """Whether who asked has closed the connection, and nobody can be answered."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@contextmanager
def serving(behaviour: Behaviour = echo, encoding: str = "utf-8") -> Iterator[Server]:
    """A server in a thread."""
    server = Server(behaviour, encoding)

    with listening(server.handle, "POST") as url:
        server.url = f"{url}/v1"
        yield server
