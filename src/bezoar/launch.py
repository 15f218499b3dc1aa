"""Where a training stage runs: a part of no cache key, for the result is the same."""

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
    def processes(self) -> int:
        """One."""
        return 1

    @property
    def shards(self) -> bool:
        """Whether weights that all train are to be in parts, where there are several ranks."""
        return True

    @property
    def parts(self) -> int:
        """In how many parts they are."""
        return 1


@dataclass(frozen=True)
class Torchrun:
    """Several processes on this machine, ranks of torchrun, on a GPU each where there are GPUs.

    Each holds the model and reads a share of every step's rows with about as many tokens as the
    others'. Where a cluster starts the processes itself (`torchrun -m bezoar run`, on every host of
    a shared disk), theirs is the number that counts.

    Example: {kind: torchrun, processes: 8}
    """

    processes: Count
    """Ranks of a training stage."""
    shard: bool = True
    """With `adapter: null` each rank holds a part of the weights, of their gradient and of the
    optimizer's state (FSDP2); false: all of them."""
    restarts: Natural = 3
    """Times that torchrun starts all of them again, from the last checkpoint, when one is lost."""
    kind: Literal["torchrun"] = "torchrun"

    @property
    def shards(self) -> bool:
        """Whether weights that all train are to be in parts, where there are several ranks."""
        return self.shard

    @property
    def parts(self) -> int:
        """In how many parts they are."""
        return self.processes if self.shard else 1


LAUNCHES: dict[str, type] = {"local": OneProcess, "torchrun": Torchrun}
Launch = Annotated[OneProcess | Torchrun, Field(discriminator="kind")]
