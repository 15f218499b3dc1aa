"""HTTP in a thread with an event loop: bodies out, one attempt each; what came back in."""

import asyncio
import resource
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from bezoar.errors import EndpointError
from bezoar.llm.proxy import proxy_for
from bezoar.secrets import mask

MOST_BYTES = 8 << 20
"""A reply larger than this, unpacked, is not read to its end."""
_SPARE_FILES = 64
_CONNECT_S = 60.0
_REDIRECTS = (301, 302, 303, 307, 308)
_SWITCH_S = 0.0005
"""After so long one Python thread makes room for another. The caller gives way at every write to
the journal and every lock; with Python's own 5 ms, 512 requests in flight took a fifth longer."""


@dataclass(frozen=True)
class Attempt:
    """What became of sending a body once. `status` is 0 if no answer came, because of `error`.

    `refused`: nobody accepts connections. `body`: what arrived, also if cut short, with the key
    masked. `oversized`: it was not read to its end, as it is too large or packed in an unknown way.
    `timed_out`: the time was over before it had all come. `lost`: whoever sent it is gone, and no
    server is at fault.
    """

    index: int
    status: int = 0
    body: str = ""
    error: str = ""
    retry_after: str = ""
    refused: bool = False
    oversized: bool = False
    timed_out: bool = False
    lost: bool = False


class Transport:
    """Sends to `url` and others; `take` gives what has come back, in the order of arrival.

    `timeout_s` counts from the moment a request is written to its connection. EndpointError if
    `concurrency` needs more open files than this process may have.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_s: float,
        concurrency: int,
        path: str = "/chat/completions",
    ) -> None:
        _allow_files(url, concurrency + 2 * _SPARE_FILES)
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._url, self._path, self._targets = url, path, dict[str, tuple[str, str | None]]()
        self._timeout_s, self._api_key = timeout_s, api_key
        self._arrived: deque[Attempt] = deque()
        self._news = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="transport", daemon=True)
        self._thread.start()
        self._ready.wait()

    def send(self, bodies: Sequence[tuple[int, bytes]], url: str = "") -> None:
        """Send bodies, each under an index of the caller's, to `url` if it is another one."""
        url = url or self._url
        if url not in self._targets:
            parts = urlsplit(url)
            full = urlunsplit(parts._replace(path=parts.path.rstrip("/") + self._path))
            self._targets[url] = (full, proxy_for(url))
        self._call(lambda: self._start(bodies, *self._targets[url]))

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when something has come back, or after `timeout_s`."""
        self._news.wait(timeout_s)
        if not self._thread.is_alive():
            fix = "run the same command to go on"
            raise EndpointError(f"{self._url}: sending has stopped by a fault of bezoar; {fix}.")

    def take(self) -> list[Attempt]:
        """All that has come back since the last time."""
        # cleared first: what arrives between the two lines is taken now or announced again
        self._news.clear()
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def close(self) -> None:
        """Give up what is in flight and end the thread."""
        self._call(self._closed.set)
        self._thread.join()

    def _call(self, action: Callable[[], Any]) -> None:
        with suppress(RuntimeError):  # the loop has ended: nothing is in flight
            self._loop.call_soon_threadsafe(action)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()
            self._ready.set()
            self._news.set()

    async def _run(self) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        headers["User-Agent"] = "bezoar"
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._connected)
        trace.on_connection_reuseconn.append(self._connected)
        # the schedule limits what is in flight, and each request has its own clock
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=headers,
            trace_configs=[trace],
        ) as self._session:
            self._ready.set()
            await self._closed.wait()
            # tasks first: one whose session is closed under it would end as a failed attempt
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, session: Any, context: SimpleNamespace, params: Any) -> None:
        """A request's clock starts again: waiting for a connection is not the server's time."""
        context.trace_request_ctx.reschedule(self._loop.time() + self._timeout_s)

    def _start(self, bodies: Sequence[tuple[int, bytes]], url: str, proxy: str | None) -> None:
        for index, body in bodies:
            task = self._loop.create_task(self._attempt(index, body, url, proxy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _attempt(self, index: int, body: bytes, url: str, proxy: str | None) -> None:
        try:
            attempt = await self._post(index, body, url, proxy)
        # whatever a server makes the client raise is a failed attempt, never a lost request
        except Exception as error:
            attempt = _failure(index, error)
        self._arrived.append(attempt)
        self._news.set()

    async def _post(self, index: int, body: bytes, url: str, proxy: str | None) -> Attempt:
        # 1) Send, and read to the end or to the limit: what arrived before a break was paid for.
        #    Redirects are not followed, as they would carry the key to another host.
        how: dict[str, Any] = {"proxy": proxy, "allow_redirects": False}
        status, chunks, size, packing, retry_after, error = 0, list[bytes](), 0, "", "", ""
        timed_out = False
        try:
            async with (
                asyncio.timeout(_CONNECT_S) as clock,
                self._session.post(url, data=body, trace_request_ctx=clock, **how) as response,
            ):
                status = 200 if 200 <= response.status < 300 else response.status
                packing = response.headers.get("Content-Encoding", "")
                retry_after = response.headers.get("Retry-After", "")
                if status in _REDIRECTS:
                    target = mask(response.headers.get("Location", ""))[:200]
                    return Attempt(index, status, error=f"the server sends on to {target}")
                while size <= MOST_BYTES and (chunk := await response.content.readany()):
                    chunks.append(chunk)
                    size += len(chunk)
        except TimeoutError:
            if not status:
                error = f"no answer came within {self._timeout_s:g} s"
                return Attempt(index, error=error, timed_out=True)
            error, timed_out = f"the answer did not end within {self._timeout_s:g} s", True
        except aiohttp.ClientPayloadError:
            error = "the connection broke in the middle of the answer"
        # 2) Unpacked here and not by the client, so that a small body cannot become gigabytes, and
        #    masked before anything else sees it.
        data, whole = _unpack(b"".join(chunks), packing)
        if not whole:
            why = f"larger than {MOST_BYTES >> 20} MiB or packed in a way that cannot be read"
            error = f"the answer is {why}"
        text = mask(data.decode("utf-8-sig", "replace"))
        oversized = not whole
        return Attempt(index, status, text, error, retry_after, False, oversized, timed_out)


def _unpack(data: bytes, packing: str) -> tuple[bytes, bool]:
    """(at most `MOST_BYTES` of the data unpacked, whether that is all)."""
    if packing.lower() in ("gzip", "x-gzip", "deflate"):
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two it is
        with suppress(zlib.error):  # what is not packed as it says is stored as it came
            data = unpacker.decompress(data, MOST_BYTES + 1)
    elif packing.lower() not in ("", "identity"):
        return data[:MOST_BYTES], False
    return data[:MOST_BYTES], len(data) <= MOST_BYTES


def _failure(index: int, error: Exception) -> Attempt:
    # aiohttp wraps the system's error, which tells nobody listening from a broken connection
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return Attempt(index, error="the connection is refused", refused=True)
        if type(cause).__name__ == "gaierror":
            return Attempt(index, error="the host is not known", refused=True)
        cause = cause.__cause__ or cause.__context__
    detail = " ".join(mask(str(error)).split())[:200] or type(error).__name__
    return Attempt(index, error=f"the connection broke ({detail})")


def _allow_files(url: str, num: int) -> None:
    # the soft limit may be raised without rights, up to the hard one
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= num:
        return
    if hard != resource.RLIM_INFINITY and hard < num:
        what = f"so many requests at once need {num} open files and this machine allows {hard}"
        fix = f"lower concurrency to {max(hard - 2 * _SPARE_FILES, 1)} or raise `ulimit -n`"
        raise EndpointError(f"{url}: {what}; {fix}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (num, hard))
