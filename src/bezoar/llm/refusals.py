"""Refused requests whose fault is not known yet: their own, or a wrong setting of the endpoint."""

from collections.abc import Callable
from dataclasses import replace

from bezoar.llm.failures import Cause, refusal_of
from bezoar.llm.journal import Journal
from bezoar.llm.schedule import Schedule
from bezoar.llm.types import Reply

_NUM_REFUSED = 10
"""After so many refusals without any answer as many requests more are tried, then we stop."""


class Refusals:
    """Final as soon as the endpoint `identity` is known to answer others; `fail` takes each."""

    def __init__(
        self,
        journal: Journal,
        identity: str,
        schedule: Schedule,
        failed_before: set[int],
        fail: Callable[[int, Reply], None],
    ) -> None:
        self._journal, self._identity, self._schedule = journal, identity, schedule
        self._failed_before, self._fail = failed_before, fail
        self._waiting: list[tuple[int, Reply, Cause]] = []
        self._has_answered: bool | None = None  # whether the endpoint ever did; None: not known

    def add(self, index: int, reply: Reply, cause: Cause) -> None:
        """Settle a refusal if the endpoint answers others; after many, try only a few more."""
        self._waiting.append((index, reply, cause))
        if self._has_answered is None:
            self._has_answered = self._journal.answered(self._identity)
        if self._has_answered:
            self.settle()
        elif sum(cause == "unclear" for _, _, cause in self._waiting) >= _NUM_REFUSED:
            self._schedule.probe(_NUM_REFUSED, self._failed_before)

    def came(self, *, answered: bool) -> None:
        """A reply came that is no refusal; `answered`: and no failure."""
        self._has_answered = self._has_answered or answered
        if self._has_answered:
            self.settle()

    def settle(self) -> None:
        """Final if the endpoint answers others, else worth another run."""
        for index, reply, _ in self._waiting:
            final = replace(reply, failure=refusal_of(reply.error))
            self._fail(index, final if self._has_answered else reply)
        self._waiting = []
        self._schedule.end_probe()

    def fault(self) -> tuple[str, str]:
        """(what is wrong where all were refused, what to do)."""
        what = f"{len(self._waiting)} requests were refused and none was answered"
        fix = (
            "correct the model, the extra settings or the server and run the same command to go on"
        )
        return f"{what}; the last one because {self._waiting[-1][1].error}", fix
