"""Requests over the nodes of a Ray cluster: workers there do the HTTP, and this process all else.

A worker hands every answer over as it came, and this process stores it before anybody reads it.
Claims, money, pace and retries are those of `RemoteAsking`, to which this is a `Transport`: each
body is sent by one worker, and what was in flight on a node that is lost goes to the others.
"""

import itertools
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from bezoar import __version__
from bezoar.errors import EndpointError, UnfinishedError, brief, first_line
from bezoar.llm.ray_worker import Connection, Worker, parcels
from bezoar.llm.transport import Attempt
from bezoar.stop import unbroken

_NODES_S = 10.0
"""Seconds between two looks for nodes that have joined."""
_START_S = 180.0
"""What a worker gets to start."""
_REACH_S = 5.0
_RESTARTS = 3
_NUMBERS = itertools.count()


@dataclass(eq=False)
class Hand:
    """Our worker on a node (Ray's id of it, and a name for people)."""

    node: str
    name: str
    actor: Any


class Nodes:
    """The nodes of the Ray cluster at `address` that have a CPU to give, with a worker on each.

    `say` hears of nodes that are left out.
    """

    say: Callable[[str], None]

    def __init__(self, address: str) -> None:
        self.address = address
        self._alive, self._known = list[Hand](), set[str]()
        self._starting, self._num_lost = dict[Any, Hand](), Counter[str]()
        self._told = 0
        self._why, self._looked_s = "it has no node with a CPU", float("-inf")

    def transport(
        self, url: str, api_key: str, *, timeout_s: float, concurrency: int
    ) -> "RayTransport":
        """A `Transport` by way of the workers, of which one has started; it raises as `hands`."""
        # before anything is claimed, and where an interrupt can end the waiting
        num = len(self.hands())
        if num != self._told:
            nodes = "1 node" if num == 1 else f"{num} nodes"
            self.say(f"{nodes} of the Ray cluster at {self.address} can send requests")
        self._told = num
        settings = Connection(next(_NUMBERS), url, api_key, timeout_s, concurrency)
        return RayTransport(self, settings)

    def hands(self) -> list[Hand]:
        """Those that can be given work. UnfinishedError if there is none, EndpointError if there is
        no such cluster."""
        self._look()
        self._join(0.0 if self._alive else _START_S)
        if not self._alive:
            what = f"no node of the Ray cluster at {self.address} can send requests"
            fix = "see to the nodes and run the same command to go on"
            raise UnfinishedError(f"{what}, the last one because {self._why}; {fix}.")
        return self._alive

    def leave_out(self, hand: Hand, why: str, *, again: bool = False) -> None:
        """Give a worker no more work; `again`: its node, if it is still there, may get another."""
        import ray

        self._why = why
        self._num_lost[hand.node] += 1
        # a worker that always dies would have its requests bought again and again
        if again and self._num_lost[hand.node] <= _RESTARTS:
            self._known.discard(hand.node)
        self._alive = [other for other in self._alive if other is not hand]
        self.say(f"the Ray node {hand.name} is left out: {why}")
        with suppress(Exception):  # it may be gone
            ray.kill(hand.actor)

    def _look(self) -> None:
        """Start a worker on every node that is new."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not ray.is_initialized():
            _connect(self.address)
        if time.monotonic() - self._looked_s < _NODES_S and self._alive:
            return
        self._looked_s = time.monotonic()
        # one that left and comes back has another name
        for node in ray.nodes():
            name = node["NodeID"]
            if not node["Alive"] or name in self._known or not node["Resources"].get("CPU"):
                continue
            self._known.add(name)
            # it mostly waits; one that wanted a CPU would itself wait where all are taken
            options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": 4}
            here = NodeAffinitySchedulingStrategy(name, soft=False)
            told = f"{node['NodeManagerHostname']} ({name[:8]})"
            actor = ray.remote(Worker).options(scheduling_strategy=here, **options).remote()
            self._starting[actor.version.remote()] = Hand(name, told, actor)

    def _join(self, wait_s: float) -> None:
        """Take in the workers that have started, waiting for the first of them."""
        import ray

        while self._starting:
            ready, _ = ray.wait(list(self._starting), timeout=wait_s)
            if not ready:
                self._why = "none has started in time" if wait_s else self._why
                return
            for ref in ready:
                hand = self._starting.pop(ref)
                try:
                    version = ray.get(ref)
                # whatever is wrong with one node, the others go on
                except Exception as error:
                    self.leave_out(hand, f"bezoar does not start there ({_last_line(error)})")
                    continue
                if version != __version__:
                    self.leave_out(hand, f"it has bezoar {version}, and this is {__version__}")
                    continue
                self._alive.append(hand)
                wait_s = 0.0


class RayTransport:
    """A `Transport` that deals bodies to workers, each to the one with the fewest in flight."""

    def __init__(self, nodes: Nodes, connection: Connection) -> None:
        self._nodes, self._connection = nodes, connection
        self._calls, self._takes = dict[Any, Hand](), dict[Any, Hand]()
        self._in_flight = dict[Hand, set[int]]()
        self._arrived = list[Attempt]()

    def send(self, bodies: Sequence[tuple[int, bytes]], url: str = "") -> None:
        """Send bodies, each under an index of the caller's, to `url` if it is another one."""
        try:
            hands = self._nodes.hands()
        except UnfinishedError as error:
            self._lose((index for index, _ in bodies), str(error))
            raise
        shares: dict[Hand, list[tuple[int, bytes]]] = {hand: [] for hand in hands}
        # one by one, so that a node which has lost its share to slow answers gets less of the next
        for index, body in bodies:
            hand = min(hands, key=lambda hand: len(self._in_flight.setdefault(hand, set())))
            self._in_flight[hand].add(index)
            shares[hand].append((index, body))
        for hand, share in shares.items():
            for parcel in parcels(share, lambda body: len(body[1])):
                self._calls[hand.actor.send.remote(self._connection, parcel, url)] = hand

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when something has come back, or after `timeout_s` or a while."""
        import ray

        # asked for only now, when there is time for them: they come in larger groups, and an
        # interrupt between the call and its note would lose what it brings
        with unbroken():
            waiting = set(self._takes.values())
            for hand, indices in self._in_flight.items():
                if indices and hand not in waiting:
                    self._takes[hand.actor.take.remote(self._connection)] = hand
        if self._takes and not self._arrived:
            ray.wait(list(self._takes), timeout=timeout_s)
        elif not self._arrived:
            time.sleep(timeout_s or 0.0)

    def take(self) -> list[Attempt]:
        """All that has come back since the last time; what a lost node had in flight is `lost`."""
        import ray

        # sending is not waited for, but a body that never reached its worker would be waited for in
        # vain: its call tells
        for refs in (self._takes, self._calls):
            ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0) if refs else ([], [])
            for ref in ready:
                hand = refs.pop(ref, None)
                if hand is None:  # given up just now
                    continue
                try:
                    came = ray.get(ref) or []
                except ray.exceptions.RayError as error:
                    self._give_up(hand, error)
                else:
                    self._in_flight[hand].difference_update(attempt.index for attempt in came)
                    self._arrived += came
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        """Give up what is in flight."""
        for hand in self._in_flight:
            hand.actor.close.remote(self._connection)

    def _give_up(self, hand: Hand, error: Exception) -> None:
        """Let the others have what a node had in flight."""
        for refs in (self._takes, self._calls):
            for ref in [ref for ref, other in refs.items() if other is hand]:
                del refs[ref]
        cause = getattr(error, "cause", None)  # of what failed in the worker itself
        why = f"it fails ({first_line(cause)})" if cause else "it is lost"
        indices = self._in_flight.pop(hand, set())
        # a fault of the worker itself would meet the next one too
        told = f"{why}, and the others send its {len(indices)} requests again"
        self._nodes.leave_out(hand, told, again=not cause)
        self._lose(indices, why)

    def _lose(self, indices: Iterable[int], why: str) -> None:
        self._arrived += [Attempt(index, error=why, lost=True) for index in indices]


@cache
def nodes_at(address: str) -> Nodes:
    """Those of the cluster at `address`, for the life of the process: workers take seconds to
    start."""
    return Nodes(address)


def _connect(address: str) -> None:
    import ray

    # Ray takes SIGTERM for itself, which is ours
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if ":" in address:  # Ray itself would look for it for a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _REACH_S).close()
        ray.init(address, namespace="bezoar", log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster can be used at {address} ({first_line(error)})"
        fix = "start one (`ray start --head`) or correct the address of launch"
        raise EndpointError(f"{what}; {fix}.") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return brief(lines[-1].strip() if lines else type(error).__name__, 200)
