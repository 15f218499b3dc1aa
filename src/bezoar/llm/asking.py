"""What is asked of an endpoint, and where its answers go."""

from collections.abc import Callable
from dataclasses import dataclass

from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.patience import Say
from bezoar.llm.types import Reply, Request


@dataclass(frozen=True)
class Asking:
    """Requests (by key) of a stage, and the budget that pays for them.

    `on_reply` takes each finished one: key, reply, and whether this process asked. `say` hears of
    what takes long.
    """

    backend: EndpointBackend
    requests: dict[str, Request]
    journal: Journal
    budget: Budget
    on_reply: Callable[[str, Reply, bool], None]
    stage: str
    say: Say

    def entry(self, key: str, reply: Reply | None, body: str | None = None) -> Entry:
        """What the journal keeps of an answer."""
        request, identity = self.requests[key], self.backend.identity
        return Entry(key, request, reply, identity, self.budget.run, self.stage, body)
