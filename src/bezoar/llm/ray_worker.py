"""What runs on a node of a Ray cluster: our own HTTP, and nothing that is read or decided."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from bezoar import __version__
from bezoar.errors import EndpointError
from bezoar.llm.transport import Attempt, Transport
from bezoar.secrets import hide

PARCEL_BYTES = 64 << 10
"""Most of one message, but for one body that is larger: Ray sends up to 100 KiB from process to
process, without its object store."""
_LOOK_S = 5.0
ItemT = TypeVar("ItemT")


def parcels(items: Iterable[ItemT], size: Callable[[ItemT], int]) -> Iterator[list[ItemT]]:
    """The items in their order, in lists of at most `PARCEL_BYTES` or of one item."""
    parcel, num_bytes = list[ItemT](), 0
    for item in items:
        if parcel and num_bytes + size(item) > PARCEL_BYTES:
            yield parcel
            parcel, num_bytes = [], 0
        parcel.append(item)
        num_bytes += size(item)
    if parcel:
        yield parcel


class Connection(NamedTuple):
    """What a `Transport` is opened with. Handed over with every call, since what makes an actor is
    kept in the cluster's records, where no key may be; a call is not."""

    number: int
    url: str
    api_key: str
    timeout_s: float
    concurrency: int

    def open(self) -> Transport:
        # what the server says of the key is masked here, as in the process that read it
        hide(self.api_key)
        timeout_s, concurrency = self.timeout_s, self.concurrency
        return Transport(self.url, self.api_key, timeout_s=timeout_s, concurrency=concurrency)


class Worker:
    """A Ray actor with several threads: one waits for what comes back while others send."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = dict[int, tuple[Transport, deque[Attempt]]]()
        self._closed = set[int]()

    def version(self) -> str:
        """That of the bezoar that is installed on the node."""
        return __version__

    def send(
        self, connection: Connection, bodies: Sequence[tuple[int, bytes]], url: str = ""
    ) -> None:
        """Send bodies, as `Transport.send` does."""
        if opened := self._find(connection):
            opened[0].send(bodies, url)

    def take(self, connection: Connection) -> list[Attempt]:
        """Some of what has come back, in the order of arrival; after a while nothing."""
        opened = self._find(connection)
        if opened is None:
            return []
        transport, waiting = opened
        if not waiting:
            try:
                transport.wait(_LOOK_S)
            except EndpointError:
                if connection.number not in self._closed:
                    raise
            waiting.extend(transport.take())
        some = next(parcels(waiting, lambda attempt: len(attempt.body.encode()) + 200), [])
        return [waiting.popleft() for _ in some]

    def close(self, connection: Connection) -> None:
        """Give up what is in flight."""
        with self._lock:
            self._closed.add(connection.number)
            opened = self._open.pop(connection.number, None)
        if opened:
            opened[0].close()

    def _find(self, connection: Connection) -> tuple[Transport, deque[Attempt]] | None:
        # calls may overtake each other: whichever comes first opens it, and none after `close`
        with self._lock:
            if connection.number in self._closed:
                return None
            if connection.number not in self._open:
                self._open[connection.number] = (connection.open(), deque())
            return self._open[connection.number]
