"""The batch API as OpenAI has it: a file of requests, a batch made of it, a file of answers."""

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from typing import Any

from bezoar.llm.proxy import proxy_for
from bezoar.secrets import mask

FINAL = ("completed", "failed", "expired", "cancelled", "canceled")
TAG = "bezoar"
"""The key of a batch's metadata that holds its token."""
PATH = "/v1/chat/completions"
"""What a line of a batch is sent to, whatever the address of the server."""
_MOST_BYTES, _MOST_LINE = 100 << 20, 8 << 20
_PAGE, _MOST_PAGES = 100, 20


def request_line(key: str, body: bytes) -> bytes:
    """A line of a file of requests: `body` as it would be sent alone, under a key."""
    head = json.dumps({"custom_id": key, "method": "POST", "url": PATH})[:-1]
    return head.encode() + b', "body": ' + body + b"}\n"


def in_files(lines: Iterable[tuple[str, bytes]], most: int) -> Iterator[list[tuple[str, bytes]]]:
    """Lines with their keys, `most` in a file that is not too large."""
    file, size = list[tuple[str, bytes]](), 0
    for key, line in lines:
        if file and (len(file) >= most or size + len(line) > _MOST_BYTES):
            yield file
            file, size = [], 0
        file.append((key, line))
        size += len(line)
    if file:
        yield file


def outcome(row: dict[str, Any]) -> tuple[int, Any]:
    """(status, body) in a line of answers; status 0 for a request that was not carried out."""
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    status, error = response.get("status_code"), row.get("error")
    if not isinstance(status, int) or (error and status == 200):
        return 0, error or row
    return status, response.get("body")


def refusal(batch: dict[str, Any]) -> str:
    """Why the server refuses a whole batch."""
    errors = batch.get("errors")
    errors = errors.get("data") if isinstance(errors, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else {}
    return f"{first.get('code', '')}: {first.get('message', '')}"[:300]


class CallError(Exception):
    """A call without an answer: its status (0 where none came) and what was said, without keys."""

    def __init__(self, status: int, said: str, retry_after: str = "") -> None:
        super().__init__(said)
        self.status, self.said, self.retry_after = status, said, retry_after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class BatchServer:
    """Calls of the server at `url`; each raises `CallError` where it has no answer."""

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # as the single requests go, and not as urllib would choose
        proxy = proxy_for(url)
        proxies = urllib.request.ProxyHandler({url.partition(":")[0]: proxy} if proxy else {})
        self._opener = urllib.request.build_opener(proxies, _NoRedirect)

    def upload(self, lines: bytes) -> str:
        """Send a file of requests; its id."""
        # drawn, as no line of a request may hold it
        border = f"bezoar-{secrets.token_hex(16)}"
        disposition = "Content-Disposition: form-data; name="
        purpose = f'--{border}\r\n{disposition}"purpose"\r\n\r\nbatch\r\n'
        file = f'--{border}\r\n{disposition}"file"; filename="requests.jsonl"\r\n'
        kind = "Content-Type: application/jsonl\r\n\r\n"
        body = (purpose + file + kind).encode() + lines + f"\r\n--{border}--\r\n".encode()
        return str(self._json("/files", body, f"multipart/form-data; boundary={border}")["id"])

    def create(self, file: str, token: str, window: str) -> dict[str, Any]:
        """Make a batch of an uploaded file; `token` is by what `find` knows it."""
        how = {"input_file_id": file, "endpoint": PATH, "completion_window": window}
        body = json.dumps({**how, "metadata": {TAG: token}}).encode()
        return self._json("/batches", body, "application/json")

    def get(self, batch: str) -> dict[str, Any]:
        """A batch: its `status`, counts and files."""
        return self._json(f"/batches/{batch}")

    def find(self, token: str) -> dict[str, Any] | None:
        """The batch that was made with this token; a server that lists none has none."""
        after = ""
        for _ in range(_MOST_PAGES):
            try:
                page = self._json(f"/batches?limit={_PAGE}{after}")
            except CallError as error:
                if error.status not in (404, 405):
                    raise
                return None
            batches = [batch for batch in page.get("data") or [] if isinstance(batch, dict)]
            for batch in batches:
                if (batch.get("metadata") or {}).get(TAG) == token:
                    return batch
            if not page.get("has_more") or not batches:
                return None
            after = f"&after={batches[-1].get('id')}"
        return None

    def lines(self, file: str) -> Iterator[dict[str, Any]]:
        """The lines of a file of answers that can be read, as they come, without keys."""
        with self._open(f"/files/{file}/content") as answer:
            # a batch of 50,000 answers is never in memory as a whole
            num, size = 0, int(answer.headers.get("Content-Length") or 0)
            while line := self._read(lambda: answer.readline(_MOST_LINE)):
                num += len(line)
                try:
                    row = json.loads(mask(line.decode("utf-8", "replace")))
                except (ValueError, RecursionError):
                    continue  # its request has no answer, and is sent again
                if isinstance(row, dict):
                    yield row
        # a file that ends early is no file without the rest: that was answered, and paid for
        if num < size:
            raise CallError(0, f"the file {file} broke off after {num} of {size} bytes")

    def _json(self, path: str, data: bytes | None = None, kind: str = "") -> dict[str, Any]:
        with self._open(path, data, kind) as answer:
            text = mask(self._read(lambda: answer.read(_MOST_LINE)).decode("utf-8", "replace"))
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or ("id" not in value and "data" not in value):
            raise CallError(0, f"{path} answered {text[:200]!r}, which is no batch API")
        return value

    def _open(self, path: str, data: bytes | None = None, kind: str = "") -> Any:
        headers = {**self._headers, "User-Agent": "bezoar"}
        headers |= {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, data, headers)
        return self._read(lambda: self._opener.open(request, timeout=self._timeout_s))

    @staticmethod
    def _read(action: Any) -> Any:
        try:
            return action()
        except urllib.error.HTTPError as error:
            said = mask(error.read(4000).decode("utf-8", "replace"))
            raise CallError(error.code, said, error.headers.get("Retry-After", "")) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise CallError(0, " ".join(mask(str(reason)).split())[:200]) from None
