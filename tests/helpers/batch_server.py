"""A small server with OpenAI's batch API on 127.0.0.1, that counts what it was asked."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.helpers.local_http import listening
from tests.helpers.server import answer

Line = tuple[int, Any] | str | None
"""The status and the body of one request's outcome; a text as it stands; None for no line."""
NO_ROOM = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}
Answering = Callable[[str, int], Line]
"""(prompt, how often it was seen before) -> its outcome."""


def capitals(prompt: str, seen: int) -> Line:
    """The prompt in capitals."""
    return 200, json.loads(answer(prompt.upper())[2])


class BatchServer:
    """`bought` counts prompts that were answered with 200 in a batch that was made; `polls` is how
    often a batch is looked at before it is done, and `fail` may answer a call in its place. A batch
    of more than `most` requests has no room."""

    def __init__(self, answering: Answering, polls: int) -> None:
        self.answering, self.polls, self.url = answering, polls, ""
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.seen, self.bought = Counter[str](), Counter[str]()
        self.calls: list[str] = []
        self.status, self.errors = "completed", None
        self.most = 50_000
        self.keys: set[str] = set()
        self.fail: Callable[[str], tuple[int, str] | None] = lambda call: None
        self.lost: set[str] = set()  # calls whose answer does not come, though they have an effect
        self._left: Counter[str] = Counter()
        self.lock = threading.Lock()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        call = f"{handler.command} {handler.path.partition('?')[0].removeprefix('/v1')}"
        with self.lock:
            self.keys.add(handler.headers.get("Authorization", ""))
            self.calls.append(call)
            failed = self.fail(call)
            status, text = failed or (200, self.answer(call, data))
        if call in self.lost:
            self.lost.remove(call)
            handler.close_connection = True
            handler.connection.close()
            return
        body = text if isinstance(text, bytes) else text.encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def answer(self, call: str, data: bytes) -> str | bytes:
        if call == "POST /files":
            lines = re.search(rb"application/jsonl\r\n\r\n(.*)\r\n--", data, re.DOTALL)
            assert lines
            assert b'name="purpose"\r\n\r\nbatch\r\n' in data
            self.files[f"file-{len(self.files)}"] = lines[1]
            return json.dumps({"id": f"file-{len(self.files) - 1}"})
        if call == "POST /batches":
            asked = json.loads(data)
            assert asked["endpoint"] == "/v1/chat/completions"
            made = {"id": f"batch-{len(self.batches)}", "status": "in_progress", **asked}
            self._left[made["id"]] = self.polls
            self.batches.append(made)
            return json.dumps(made)
        if call == "GET /batches":
            return json.dumps({"data": self.batches[::-1], "has_more": False})
        if call == "POST /chat/completions":
            return answer("direct")[2]
        if match := re.fullmatch(r"GET /batches/(.*)", call):
            return json.dumps(self.look(next(b for b in self.batches if b["id"] == match[1])))
        match = re.fullmatch(r"GET /files/(.*)/content", call)
        assert match
        return self.files[match[1]]

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch is done after so many looks."""
        if batch["status"] == "in_progress" and self._left[batch["id"]]:
            self._left[batch["id"]] -= 1
        elif batch["status"] == "in_progress":
            batch["status"], batch["errors"] = self.status, self.errors
            if len(self.files[batch["input_file_id"]].splitlines()) > self.most:
                batch["status"], batch["errors"] = "failed", NO_ROOM
            if batch["status"] != "failed":
                self.work(batch)
        return batch

    def work(self, batch: dict[str, Any]) -> None:
        """Write the files of answers, the last request first."""
        files: dict[str, list[str]] = {"output_file_id": [], "error_file_id": []}
        for line in self.files[batch["input_file_id"]].splitlines()[::-1]:
            asked = json.loads(line)
            prompt = asked["body"]["messages"][-1]["content"]
            outcome = self.answering(prompt, self.seen[prompt])
            self.seen[prompt] += 1
            if outcome is None:
                continue
            if isinstance(outcome, str):
                files["output_file_id"].append(outcome)
                continue
            status, body = outcome
            self.bought[prompt] += status == 200
            response = {"status_code": status, "request_id": "r", "body": body}
            row = {"id": "x", "custom_id": asked["custom_id"], "response": response, "error": None}
            name = "output_file_id" if status == 200 else "error_file_id"
            files[name].append(json.dumps(row))
        for name, lines in files.items():
            if lines:
                batch[name] = f"{name}-{batch['id']}"
                self.files[batch[name]] = "\n".join(lines).encode() + b"\n"


@contextmanager
def serving_batches(answering: Answering = capitals, polls: int = 1) -> Iterator[BatchServer]:
    """A server in a thread."""
    server = BatchServer(answering, polls)
    with listening(lambda handler: server.handle(handler), "GET", "POST") as url:
        server.url = f"{url}/v1"
        yield server
