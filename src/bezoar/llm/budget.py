"""Money: what tokens cost, and the limit a run must not pass."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.bounds import NotNegative
from bezoar.chat.tool_calls import whole_text
from bezoar.cost import cents, dollars
from bezoar.llm.journal import Journal, affordable
from bezoar.llm.types import Request

REFUSED = "not asked: the budget was spent"
"""The `error` of a reply whose request was not sent because the budget did not allow it."""


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost; false where they cost nothing."""

    input_usd_per_million: NotNegative = 0.0
    """US dollars for a million prompt tokens; 0 where they are free."""
    output_usd_per_million: NotNegative = 0.0
    """US dollars for a million answer tokens; 0 where they are free."""

    def __bool__(self) -> bool:
        return self != FREE

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of one reply."""
        input_usd = prompt_tokens * self.input_usd_per_million
        return (input_usd + completion_tokens * self.output_usd_per_million) / 1e6

    def most_usd(self, request: Request) -> float:
        """Above a request's cost: one token a byte, 16 more a text, and the longest answer."""
        texts = [*map(whole_text, request.messages), request.prefill]
        num_bytes = sum(len(text.encode("utf-8", "replace")) + 16 for text in texts)
        return self.cost_usd(num_bytes, request.max_tokens)


FREE = Prices()
"""Those of a language model that names none."""


class Budget:
    """What the run `run` may still spend, with every other process that writes to its journal.

    `limit_usd` None is no limit. ValueError for one that is no finite number of at least 0.
    """

    def __init__(
        self, limit_usd: float | None = None, journal: Journal | None = None, *, run: str = ""
    ) -> None:
        if limit_usd is not None and not (math.isfinite(limit_usd) and limit_usd >= 0):
            raise ValueError(f"a budget must be a finite number of at least 0, not {limit_usd}")
        self.limit_usd, self.run = limit_usd, run
        self.words = f"the budget of {dollars(limit_usd or 0.0)} USD"
        """What the limit is called, before what is left of it."""
        self.raise_key = "budget_usd"
        """The recipe key that sets it."""
        self._journal, self._reserved_usd = journal, 0.0
        self._wanted_usd = 0.0
        self._owner = secrets.token_hex(8)
        if journal is not None:
            # a claim ends with its process, so that others can tell whose reservations are dead
            journal.claims.take(self._owner)

    def allow(self, limit_usd: float | None, words: str, raise_key: str) -> None:
        """Set another limit, how it is called, and the recipe key that raises it."""
        self.limit_usd, self.words, self.raise_key = limit_usd, words, raise_key

    def reserve(self, prices: Sequence[float]) -> tuple[int, float]:
        """(how many of the next requests, which cost at most `prices`, may be sent; US dollars that
        other processes hold). Their money is reserved until `release`."""
        if self.limit_usd is None:
            return len(prices), 0.0
        held_usd, others_usd = self._reserved_usd, 0.0
        if self._journal is None:
            count = affordable(prices, self.limit_usd - held_usd)
        else:
            reserve, limit_usd = self._journal.reserve, self.limit_usd
            count, others_usd = reserve(
                self._owner, self.run, held_usd, prices, limit_usd=limit_usd
            )
        self._reserved_usd += sum(prices[:count])
        self._wanted_usd = prices[count] if count < len(prices) else 0.0
        return count, others_usd

    @property
    def shortfall(self) -> str:
        """What is left of the limit, and what the request that was refused could have cost."""
        spent_usd = self._journal.spent_usd(self.run) if self._journal else 0.0
        left_usd = max(round((self.limit_usd or 0.0) - spent_usd, 6), 0.0)
        most = f"the next request could cost up to {dollars(self._wanted_usd)}"
        return f"{self.words} has {dollars(left_usd)} left, and {most}"

    def meter(self) -> str:
        """What the run has spent in all, and of which limit, for a line about money; "" without a
        limit."""
        if self.limit_usd is None or self._journal is None:
            return ""
        return f" ({cents(self._journal.spent_usd(self.run))} of {dollars(self.limit_usd)} spent)"

    def release(self, reserved_usd: float) -> None:
        """Give back what was reserved for a request that was answered or given up."""
        # written to the journal by the next reservation: one write a pass is enough
        self._reserved_usd = max(self._reserved_usd - reserved_usd, 0.0)

    def hold(self, usd: float) -> None:
        """Reserve the money of what was sent before, whether or not it fits."""
        self._reserved_usd += usd
        if self.limit_usd is not None and self._journal is not None:
            held_usd, limit_usd = self._reserved_usd, self.limit_usd
            self._journal.reserve(self._owner, self.run, held_usd, (), limit_usd=limit_usd)

    def end(self) -> None:
        """Nothing is in flight any more: other processes may spend what was reserved."""
        self._reserved_usd = 0.0
        self.hold(0.0)
