"""Money: what tokens cost, and the limit a run must not pass."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bezoar.llm.claims import Claims
from bezoar.llm.types import Request

REFUSED = "budget"
"""The `error` of a reply whose request was not sent because the budget did not allow it."""


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost."""

    input_usd_per_million: float = 0.0
    output_usd_per_million: float = 0.0

    def __post_init__(self) -> None:
        if not all(
            math.isfinite(price) and price >= 0
            for price in (self.input_usd_per_million, self.output_usd_per_million)
        ):
            raise ValueError("a price must be a finite number of at least 0")

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of one reply."""
        return (
            prompt_tokens * self.input_usd_per_million
            + completion_tokens * self.output_usd_per_million
        ) / 1e6

    def most_usd(self, request: Request) -> float:
        """More than `request` can cost: one token a byte of its text, 16 a message, and the longest
        answer."""
        size = (
            sum(len(m.content.encode("utf-8", "replace")) + 16 for m in request.messages)
            + len(request.prefill.encode("utf-8", "replace"))
            + 16
        )
        return self.cost_usd(size, request.max_tokens)


class Ledger(Protocol):
    """Where it is written down what all processes of a run have spent and put aside: the
    journal."""

    claims: Claims

    def spent_usd(self, run: str) -> float: ...

    def reserve(
        self,
        answer_index: str,
        run: str,
        held_usd: float,
        most_usd: Sequence[float],
        *,
        limit_usd: float,
    ) -> tuple[int, float]: ...


class Budget:
    """What the run `run` may still spend, together with every other process that writes to the same
    journal.

    `limit_usd` None is no limit; without a journal, what was spent is counted here alone.
    ValueError for a limit that is no finite number of at least 0.
    """

    def __init__(
        self, limit_usd: float | None = None, journal: Ledger | None = None, *, run: str = ""
    ) -> None:
        if limit_usd is not None and not (math.isfinite(limit_usd) and limit_usd >= 0):
            raise ValueError(f"a budget must be a finite number of at least 0, not {limit_usd}")
        self.limit_usd, self.run = limit_usd, run
        self._journal, self._counted_usd, self._reserved_usd = journal, 0.0, 0.0
        self._owner = secrets.token_hex(8)
        if journal is not None and limit_usd is not None:
            journal.claims.take(self._owner)

    @property
    def spent_usd(self) -> float:
        """What the run has spent, in this process and in others."""
        return self._counted_usd if self._journal is None else self._journal.spent_usd(self.run)

    def add(self, cost_usd: float) -> None:
        """Count money that has been spent; where there is a journal, the replies in it are the
        count."""
        self._counted_usd += cost_usd

    def reserve(self, most_usd: Sequence[float]) -> tuple[int, float]:
        """(how many of the next requests may be sent, each with the most it can cost; what other
        processes hold of the budget).

        Their money is put aside until `release`. A request that costs nothing may always be sent.
        """
        if self.limit_usd is None:
            return len(most_usd), 0.0
        if self._journal is None:
            count, others = (
                affordable(most_usd, self.limit_usd - self._counted_usd - self._reserved_usd),
                0.0,
            )
        else:
            count, others = self._journal.reserve(
                self._owner, self.run, self._reserved_usd, most_usd, limit_usd=self.limit_usd
            )
        self._reserved_usd += sum(most_usd[:count])
        return count, others

    def release(self, most_usd: float) -> None:
        """Take back what was put aside for a request that has been answered or given up."""
        self._reserved_usd = max(self._reserved_usd - most_usd, 0.0)

    def end(self) -> None:
        """Nothing is in flight any more: other processes may spend what was put aside."""
        self._reserved_usd = 0.0
        if self.limit_usd is not None and self._journal is not None:
            self._journal.reserve(self._owner, self.run, 0.0, (), limit_usd=self.limit_usd)


def affordable(most_usd: Sequence[float], room_usd: float) -> int:
    """How many requests from the first on fit into `room_usd`; what costs nothing always does."""
    total = 0.0
    for count, cost in enumerate(most_usd):
        total += cost
        if cost > 0 and total > room_usd + 1e-9:
            return count
    return len(most_usd)
