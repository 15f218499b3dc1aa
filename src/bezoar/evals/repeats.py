"""The same score with several seeds: its mean and its spread."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A score of one model by seed, of those that have a value; at least one."""

    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return math.fsum(self.values.values()) / len(self.values)

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation; None for one seed."""
        if len(self.values) < 2:
            return None
        squares = ((value - self.mean) ** 2 for value in self.values.values())
        return math.sqrt(math.fsum(squares) / (len(self.values) - 1))

    @property
    def lowest(self) -> float:
        """Of all seeds."""
        return min(self.values.values())

    @property
    def highest(self) -> float:
        """Of all seeds."""
        return max(self.values.values())
