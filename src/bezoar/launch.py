"""Where a stage runs: a part of no cache key, for the result is the same."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from bezoar.bounds import Count, Natural


@dataclass(frozen=True)
class OneProcess:
    """One process, that of the command itself.

    Example: {kind: local}
    """

    kind: Literal["local"] = "local"

    @property
    def ranks(self) -> int:
        """One."""
        return 1

    def shards(self, *, adapter: bool) -> bool:
        """Whether the model is to be in parts, where a cluster has started several ranks."""
        return not adapter


@dataclass(frozen=True)
class Torchrun:
    """Several processes of one machine or more, ranks of torchrun, on a GPU each where there are
    GPUs.

    Each holds the model, or a part of it, and reads a share of every step's rows with about as many
    tokens as the others'. Several `hosts` share a disk with recipe and run directory; `bezoar run`
    is started on each, and becomes a torchrun that meets the others. Where a cluster starts the
    processes itself (`torchrun -m bezoar run`), theirs is the number that counts.

    Example: {kind: torchrun, processes: 8}
    """

    processes: Count
    """Ranks of a training stage, on each host."""
    hosts: Count = 1
    """Machines that train together."""
    rendezvous: str = ""
    """HOST:PORT of one of several hosts, where they meet."""
    shard: bool | None = None
    """true: each rank holds a part of the model (FSDP2), of weights that train also of their
    gradient and the optimizer's state; an adapter is whole on each; false: all of them; default:
    only where `adapter: null` trains all weights."""
    restarts: Natural = 3
    """Times that torchrun starts all of them again, from the last checkpoint, when one is lost; of
    several hosts the loss of one ends all, and the same command on each goes on."""
    kind: Literal["torchrun"] = "torchrun"

    def __post_init__(self) -> None:
        if self.hosts > 1 and not re.fullmatch(r"[^/\s]+:\d+", self.rendezvous):
            raise ValueError("hosts need a rendezvous, HOST:PORT of one of them; add it")
        if self.rendezvous and self.hosts == 1:
            raise ValueError("rendezvous has an effect only with several hosts; remove it")
        if self.hosts > 1 and self.restarts != 3:
            raise ValueError("restarts has an effect only on one host; remove it")

    @property
    def ranks(self) -> int:
        """Those of all hosts."""
        return self.processes * self.hosts

    def shards(self, *, adapter: bool) -> bool:
        """Whether the model is to be in parts, where there are several ranks."""
        return not adapter if self.shard is None else self.shard


INSTALL_RAY = "Ray is not installed; run `pip install 'bezoar[ray]'` here and on every node"


@dataclass(frozen=True)
class Ray:
    """The nodes of a Ray cluster, which send the requests of a stage to its endpoints.

    What is answered comes to the process of the command as it was sent, which alone keeps journal,
    budget and rows. Every node with a CPU has a worker; one that is lost loses nothing but what was
    on its wire, and one that joins gets its share. `localhost` in the `url` of an endpoint is the
    node that asks, and each may have a server of its own.

    Example: {kind: ray, address: auto}
    """

    address: str = "auto"
    """auto: the cluster that this machine is a node of (`ray start`); HOST:PORT; local: one is
    started that is this machine."""
    kind: Literal["ray"] = "ray"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|local|[^/\s]+:\d+", self.address):
            raise ValueError(f"address is auto, local or HOST:PORT, not {self.address!r}")


LAUNCHES: dict[str, type] = {"local": OneProcess, "torchrun": Torchrun, "ray": Ray}
TrainLaunch = Annotated[OneProcess | Torchrun, Field(discriminator="kind")]
AskLaunch = Annotated[OneProcess | Ray, Field(discriminator="kind")]
Launch = Annotated[OneProcess | Torchrun | Ray, Field(discriminator="kind")]
