"""What a bar says of the replies of a call: tokens a second, failures, money."""

import time

from bezoar.cost import cents
from bezoar.llm.budget import Budget
from bezoar.llm.types import Reply
from bezoar.progress import Advance


class Meter:
    """Moves a bar and keeps its note."""

    def __init__(self, advance: Advance, budget: Budget) -> None:
        self.advance, self.budget, self.started = advance, budget, time.monotonic()
        self.num_tokens = self.num_failed = 0
        self.cost_usd = 0.0

    def tick(self, replies: list[Reply]) -> None:
        """Count replies that came."""
        self.num_tokens += sum(reply.completion_tokens for reply in replies)
        self.num_failed += sum(reply.finish == "error" for reply in replies)
        self.cost_usd += sum(reply.cost_usd for reply in replies)
        note = f"{self.num_tokens / max(time.monotonic() - self.started, 1e-6):.0f} tok/s"
        note += f", {self.num_failed} failed" if self.num_failed else ""
        if self.cost_usd:
            note += f", {cents(self.cost_usd)} USD{self.budget.meter()}"
        self.advance(len(replies), note)
