"""The pool: requests in, replies out, each asked once and journalled before it is returned."""

import time
from collections.abc import Generator, Sequence

from bezoar.errors import UnfinishedError
from bezoar.llm.ask_remote import RemoteAsking
from bezoar.llm.budget import REFUSED, Budget, Prices
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.types import Backend, Reply, Request
from bezoar.progress import Advance, Progress
from bezoar.stop import unbroken


class Pool:
    """A language model behind its journal and budget; `ask` is an `Ask`.

    The groups that are answered together are made from all requests of a call, answered or not, so
    a local model's batches, and with them the last bits of its answers, do not depend on where an
    earlier process died.
    """

    def __init__(
        self,
        backend: Backend | EndpointBackend,
        journal: Journal,
        budget: Budget,
        progress: Progress,
        stage: str = "",
    ) -> None:
        self.backend, self.journal, self.budget, self.progress, self.stage = (
            backend,
            journal,
            budget,
            progress,
            stage,
        )
        self._prices: Prices = getattr(backend, "prices", None) or Prices()
        self._asked = self._from_journal = self._failed = self._refused = 0
        self._prompt_tokens = self._completion_tokens = 0
        self._cost_usd = self._paid_now_usd = self._seconds = 0.0

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`. A request that fails or that the budget refuses has a
        reply with finish "error"."""
        started = time.monotonic()
        identity = self.backend.identity
        keys = [request.key(identity) for request in requests]
        unique = dict(zip(keys, requests, strict=True))
        replies = (
            self.journal.look_up(unique, self.backend.read)
            if isinstance(self.backend, EndpointBackend)
            else self.journal.get_many(unique)
        )
        num_known = len(replies)
        if num_known < len(unique):
            with self.progress.bar("replies", len(unique)) as advance:
                advance(num_known)
                self._clock = _Clock(advance)
                if isinstance(self.backend, EndpointBackend):
                    self._ask_endpoint(unique, replies)
                else:
                    self._ask_here(self.backend, unique, replies)
        seconds = time.monotonic() - started
        self._count(list(replies.values()), num_known, seconds)
        if num_known < len(unique):
            self.progress.log(
                event="replies",
                asked=len(unique),
                from_journal=num_known,
                seconds=round(seconds, 3),
                totals=self.counts(),
            )
        return [replies[key] for key in keys]

    def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """`ask`, for work that is only finished when nothing failed that may be answered another
        time.

        UnfinishedError, after all others have been answered, when such requests are left: the same
        command asks those alone.
        """
        replies = self.ask(requests)
        failed = [reply for reply in replies if reply.passing]
        if failed:
            raise UnfinishedError(
                f"{len(failed)} of {len(replies)} requests failed for a reason that can pass, the"
                f" last one because {failed[-1].error}; what was answered is kept, and the same"
                " command asks for the rest."
            )
        return replies

    def counts(self) -> dict[str, float]:
        """What this pool did. Tokens and `cost_usd` are those of all replies it returned, whenever
        they were paid for; `paid_now_usd` was spent by this process. `failed` counts the refused
        ones too."""
        return {
            "asked": self._asked,
            "from_journal": self._from_journal,
            "failed": self._failed,
            "refused_by_budget": self._refused,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "cost_usd": round(self._cost_usd, 6),
            "paid_now_usd": round(self._paid_now_usd, 6),
            "seconds": round(self._seconds, 3),
        }

    def _ask_endpoint(self, unique: dict[str, Request], replies: dict[str, Reply]) -> None:
        """Ask an endpoint for the requests whose keys are not in `replies`, and put them there."""

        def keep(key: str, reply: Reply, asked_here: bool) -> None:
            replies[key] = reply
            if asked_here:
                self._paid_now_usd += reply.cost_usd
            self._clock.tick([reply])

        missing = {key: request for key, request in unique.items() if key not in replies}
        assert isinstance(self.backend, EndpointBackend)
        RemoteAsking(
            self.backend,
            missing,
            journal=self.journal,
            budget=self.budget,
            keep=keep,
            stage=self.stage,
        ).run()

    def _ask_here(
        self, backend: Backend, unique: dict[str, Request], replies: dict[str, Reply]
    ) -> None:
        """Ask a model in this process, group by group, for the requests whose keys are not in
        `replies`, and put them there."""
        keys, requests, done = list(unique), list(unique.values()), frozenset(replies)
        for group in backend.batches(requests):
            waiting = [index for index in group if keys[index] not in done]
            while waiting:
                most = [self._prices.most_usd(requests[i]) for i in waiting]
                num, _ = self.budget.reserve(most)
                if num == 0:
                    replies.update(
                        (keys[i], Reply(finish="error", error=REFUSED, failure="budget"))
                        for i in waiting
                    )
                    break
                wave, waiting = waiting[:num], waiting[num:]
                try:
                    self._answer(backend, {keys[i]: requests[i] for i in wave}, replies)
                finally:
                    self.budget.end()

    def _answer(
        self, backend: Backend, asked: dict[str, Request], replies: dict[str, Reply]
    ) -> None:
        """Ask for a wave of requests. An interrupt that comes while replies are journalled is
        handed to the backend, as if it had come while the backend waited: it may still have answers
        to give before it stops."""
        keys, requests = list(asked), list(asked.values())
        stream = backend.answer(requests)
        finished = next(stream, None)
        while finished is not None:
            try:
                with unbroken():
                    self._keep([(keys[i], requests[i], reply) for i, reply in finished], replies)
            except KeyboardInterrupt as interrupt:
                if not isinstance(stream, Generator):
                    raise
                finished = stream.throw(interrupt)
            else:
                finished = next(stream, None)

    def _keep(self, answered: list[tuple[str, Request, Reply]], replies: dict[str, Reply]) -> None:
        """Journal replies, then count them and hand them on."""
        identity, run = self.backend.identity, self.budget.run
        self.journal.put_many(
            [
                Entry(key, request, reply, identity, run, self.stage)
                for key, request, reply in answered
            ]
        )
        # another process may have answered the same question first; then that answer is the one
        kept = self.journal.get_many(key for key, _, _ in answered)
        replies.update((key, kept.get(key, reply)) for key, _, reply in answered)
        self._paid_now_usd += sum(reply.cost_usd for _, _, reply in answered)
        self._clock.tick([reply for _, _, reply in answered])

    def _count(self, replies: list[Reply], num_known: int, seconds: float) -> None:
        self._asked += len(replies)
        self._from_journal += num_known
        self._failed += sum(reply.finish == "error" for reply in replies)
        self._refused += sum(
            reply.failure == "budget" or reply.error == REFUSED for reply in replies
        )
        self._prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        self._completion_tokens += sum(reply.completion_tokens for reply in replies)
        self._cost_usd += sum(reply.cost_usd for reply in replies)
        self._seconds += seconds


class _Clock:
    """Moves the bar and keeps its note: tokens a second, failures, money."""

    def __init__(self, advance: Advance) -> None:
        self.advance, self.started = advance, time.monotonic()
        self.num_tokens = self.num_failed = 0
        self.cost_usd = 0.0

    def tick(self, replies: list[Reply]) -> None:
        """Count finished requests."""
        self.num_tokens += sum(reply.completion_tokens for reply in replies)
        self.num_failed += sum(reply.finish == "error" for reply in replies)
        self.cost_usd += sum(reply.cost_usd for reply in replies)
        note = f"{self.num_tokens / max(time.monotonic() - self.started, 1e-6):.0f} tok/s"
        if self.num_failed:
            note += f", {self.num_failed} failed"
        if self.cost_usd:
            note += f", {self.cost_usd:.4f} USD"
        self.advance(len(replies), note)
