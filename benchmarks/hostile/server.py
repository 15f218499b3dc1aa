"""A chat-completions server on 127.0.0.1 that fails as it is told to, in a process of its own.

    python benchmarks/hostile/server.py '{"kind": "fine", "delay_s": [1, 1]}'

It prints its port and ends when its input is closed, after `MOST_S` seconds or `MOST_REQUESTS`
requests. For every request (by a hash of its body) it keeps when it was seen and when its whole
answer was written out, on the clock that all processes of a machine share; with `tally` in the plan
(for millions of requests) only which were answered. Plain asyncio protocols: the server must not be
what a benchmark of its client measures.
"""

import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

MOST_S = 4 * 3600
MOST_REQUESTS = 4_000_000
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"number (\d+)")
Plan = dict[str, Any]
Times = list[tuple[float, float, str]]
"""Of one request, an item an attempt: when it was seen, when its answer was written out (0: it was
not), what it met."""


@dataclass(frozen=True)
class Asked:
    """One attempt: the number in its prompt, the hash of its body, and how often that was seen
    before."""

    number: int
    key: str
    before: int


@dataclass(frozen=True)
class Act:
    """What the server does: an answer after `delay_s`, a connection that is dropped (after
    `dropped` bytes of it), or nothing at all."""

    delay_s: float = 0.0
    status: int = 200
    body: bytes = b""
    headers: str = ""
    dropped: int | None = None
    hung: bool = False
    what: str = "answered"


def proper(asked: Asked, plan: Plan) -> bytes:
    """A whole answer that depends on the request alone; one in five rejects."""
    verdict = "Reject" if int(asked.key[:2], 16) % 5 == 0 else "Accept"
    said = f"{verdict}: said of {asked.key} " + "x" * plan.get("size", 0)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": said},
        "finish_reason": "stop",
    }
    written = plan.get("tokens", 5)
    usage = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 10 + written}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def fine(asked: Asked, plan: Plan) -> Act:
    """Every request is answered, after a time between the two of `delay_s`."""
    low, high = plan.get("delay_s", (0.0, 0.0))
    return Act(low + (high - low) * int(asked.key[-4:], 16) / 0xFFFF, body=proper(asked, plan))


def fail(asked: Asked, plan: Plan) -> Act:
    """`status` for the requests whose numbers are in `numbers`, or for all; the others are
    answered."""
    if plan.get("numbers") is not None and asked.number not in plan["numbers"]:
        return fine(asked, plan)
    return Act(0.0, plan["status"], plan.get("said", "no").encode(), what=str(plan["status"]))


def say(asked: Asked, plan: Plan) -> Act:
    """One of `bodies`, each a status and a text, by the number of the request; a proper answer
    where the text is null."""
    status, text = plan["bodies"][asked.number % len(plan["bodies"])]
    return (
        fine(asked, plan)
        if text is None
        else Act(0.0, status, text.encode(), what=f"said {status}")
    )


def storm(asked: Asked, plan: Plan) -> Act:
    """10 % 429, 5 % 500, 2 % dropped connections (half of them within the answer), 1 % truncated
    JSON, 1 % hung; the rest is answered."""
    draw, whole = random.Random(f"{asked.key} {asked.before}").random(), fine(asked, plan)
    if draw < 0.10:
        return Act(
            0.01, 429, b"slow down", "Retry-After: 0.2\r\n" if draw < 0.05 else "", what="429"
        )
    if draw < 0.15:
        return Act(0.01, 500, b"oops", what="500")
    if draw < 0.17:
        return Act(0.02, body=whole.body, dropped=0 if draw < 0.16 else 150, what="dropped")
    if draw < 0.18:
        return Act(whole.delay_s, body=whole.body[:-40], what="truncated")
    return Act(hung=True, what="hung") if draw < 0.19 else whole


BEHAVIOURS: dict[str, Callable[[Asked, Plan], Act]] = {
    "fine": fine,
    "fail": fail,
    "say": say,
    "storm": storm,
}


class State:
    """What the server does now, and what it has seen."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.count, self.headers = plan, 0, ""
        self.log: dict[str, list[list[Any]]] = defaultdict(list)
        self.numbers: dict[str, int] = {}
        self.most_in_flight = self.in_flight = self.asked_again = 0
        self.answered: set[int] = set()


class Connection(asyncio.Protocol):
    """One connection, kept open; a request at a time."""

    def __init__(self, state: State) -> None:
        self.state, self.data, self.loop = state, b"", asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head, length = self.data[:end], _LENGTH.search(self.data, 0, end)
        size = end + 4 + int(length[1] if length else 0)
        if len(self.data) < size:
            return
        body, self.data = self.data[end + 4 : size], self.data[size:]
        if head.startswith(b"POST /v1/"):
            self.asked(head, body)
        else:
            self.told(head, body)

    def asked(self, head: bytes, body: bytes) -> None:
        """A request of the program under test."""
        state, key = self.state, hashlib.blake2b(body, digest_size=8).hexdigest()
        state.count += 1
        state.asked_again += int(key, 16) in state.answered
        state.headers = head.decode("latin-1")
        found, tally = _NUMBER.search(body), state.plan.get("tally", False)
        number, times = int(found[1]) if found else -1, [] if tally else state.log[key]
        if not tally:
            state.numbers[key] = number
        act = BEHAVIOURS[state.plan["kind"]](Asked(number, key, len(times)), state.plan)
        times.append([time.monotonic(), 0.0, act.what])
        state.in_flight += 1
        state.most_in_flight = max(state.most_in_flight, state.in_flight)
        if not act.hung:
            self.loop.call_later(act.delay_s, self.answer, act, key, times[-1])
        if state.count >= MOST_REQUESTS:
            self.loop.stop()

    def answer(self, act: Act, key: str, times: list[Any]) -> None:
        """Do what was decided."""
        self.state.in_flight -= 1
        if self.transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {act.status} X\r\nContent-Type:"
            f" application/json\r\n{act.headers}Content-Length: {len(act.body)}\r\n\r\n"
        )
        data = head.encode() + act.body
        if act.dropped is not None:
            if act.dropped:
                self.transport.write(data[: len(head) + act.dropped])
            self.transport.close()
            return
        self.transport.write(data)
        if not self.transport.get_write_buffer_size():  # the system has taken it all
            times[1] = time.monotonic()
            if act.what == "answered":
                self.state.answered.add(int(key, 16))

    def told(self, head: bytes, body: bytes) -> None:
        """A word from the benchmark."""
        state = self.state
        if head.startswith(b"POST /plan"):
            state.plan = json.loads(body)
        names = ("count", "headers", "most_in_flight", "numbers", "asked_again")
        status = {name: getattr(state, name) for name in names}
        data = json.dumps(state.log if head.startswith(b"GET /log") else status).encode()
        self.transport.write(
            b"HTTP/1.1 200 X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(data) + data
        )
        self.transport.close()


async def main(plan: Plan) -> None:
    state, loop = State(plan), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.read), MOST_S)


class Server:
    """The server's process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process, self.address = process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        self.url = self.address + "/v1"

    def now(self, plan: Plan) -> None:
        """Behave differently from now on."""
        self._call("/plan", json.dumps(plan).encode())

    def status(self) -> dict[str, Any]:
        """`count` of requests, `numbers` by key, `most_in_flight`, `asked_again` after a whole
        answer, and the `headers` of the last one."""
        return dict(self._call("/status"))

    def log(self) -> dict[str, Times]:
        """What became of every request."""
        return dict(self._call("/log"))

    def cpu_s(self) -> float:
        """CPU seconds that the server has used."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _call(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(
            urllib.request.Request(self.address + path, data), timeout=30
        ) as answer:
            return json.load(answer)


@contextmanager
def serving(plan: Plan) -> Iterator[Server]:
    """A server that follows `plan` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


def asked_again(log: dict[str, Times]) -> list[tuple[float, float, float]]:
    """(when it was asked, when the answer was written out whole, when the same was asked again),
    for every answer that was."""
    return [
        (asked, written, again)
        for times in log.values()
        for place, (asked, written, what) in enumerate(times)
        if written and what == "answered"
        for again, _, _ in times[place + 1 : place + 2]
    ]


def answered(log: dict[str, Times]) -> int:
    """How many whole answers were written out."""
    return sum(
        bool(written) and what == "answered" for times in log.values() for _, written, what in times
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(json.loads(sys.argv[1])))
