"""The processes that train one stage together: who reads which rows, and sums over all of them.

Every rank holds the same weights and knows all rows of a step, so that counts need no message. A
step sends two sums: of the gradients, which were divided by the units of the whole step before,
and of the numbers that are logged.
"""

# torch's DistributedDataParallel would do the same with hooks on every backward pass, and a mean
# over ranks that has to be undone; a rank that reads its micro-batches again, out of memory, would
# break its count of passes

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from bezoar.errors import TrainingError, UnfinishedError, first_line

T = TypeVar("T")


class LostRankError(UnfinishedError):
    """Another rank is gone; it or what started it says why."""


def is_lost(error: BaseException | None) -> bool:
    """Whether another rank's end is behind an error, also where FSDP's own sums raise it."""
    while error is not None:
        backend = isinstance(error, RuntimeError) and re.search("gloo|nccl", str(error), re.I)
        if backend or isinstance(error, LostRankError):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Ranks:
    """`rank` of `size` processes; by default there is one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of the process group that this process has joined, if it has."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def deal(self, items: Sequence[T], sizes: Sequence[int]) -> list[T]:
        """This rank's items, in their order; the sums of `sizes` are about equal over ranks.

        The largest first, each to the rank that has least: all have one, if there are enough.
        """
        if self.size == 1:
            return list(items)
        # worked out by each rank for itself, so nobody has to be told
        loads, own = [0] * self.size, list[int]()
        for index in sorted(range(len(items)), key=lambda i: (-sizes[i], i)):
            rank = min(range(self.size), key=lambda r: (loads[r], r))
            loads[rank] += max(1, sizes[index])
            if rank == self.rank:
                own.append(index)
        return [items[i] for i in sorted(own)]

    def gather(self, own: Mapping[int, Sequence[float]], count: int, width: int) -> Tensor:
        """Rows of numbers [count, width] from those that each rank has, by their place."""
        table = torch.zeros(count, width, dtype=torch.double)
        for index, values in own.items():
            table[index, : len(values)] = torch.tensor(values, dtype=torch.double)
        # nobody else has anything in these rows: a sum with zeros is the number itself
        return self.sum(table)

    def sum_named(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums of numbers whose names are the same on all ranks."""
        names = sorted(values)
        table = torch.tensor([values[name] for name in names], dtype=torch.double)
        sums = dict(zip(names, self.sum(table).tolist(), strict=True))
        return {name: sums[name] for name in values}

    def of_first(self, values: Sequence[float]) -> list[float]:
        """The first rank's numbers; what others worked out may be rounded otherwise."""
        table = self.gather({0: values} if self.first else {}, 1, len(values))
        return [float(value) for value in table[0]]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; the same bits on each."""
        if self.size > 1:
            self._together(lambda: dist.all_reduce(values))
        return values

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """The gradient of every parameter becomes the sum over ranks."""
        if self.size == 1:
            return
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue  # in parts: its gradient is the sum already
            # a rank that had no rows takes part in every sum all the same
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.sum(parameter.grad)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first rank does the block before the others do: they find the files that it left."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def check_same(self, number: int, what: str) -> None:
        """TrainingError unless all ranks have the same number."""
        numbers = torch.zeros(self.size, dtype=torch.long)
        numbers[self.rank] = number
        found = self.sum(numbers).tolist()
        if len(set(found)) > 1:
            said = ", ".join(map(str, found))
            advice = "put the run directory on a disk that all hosts share"
            raise TrainingError(f"{what} differs between the ranks ({said}); {advice}.")

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return int(self.gather({self.rank: [number]}, self.size, 1).max())

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.sum(torch.zeros(()))

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:  # gloo's and NCCL's own
            why = f"another of the {self.size} ranks is gone ({first_line(error)})"
            raise LostRankError(f"{why}; run the same command to go on.") from error
