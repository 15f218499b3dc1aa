"""The pool: requests in, replies out, each asked once and journalled before it is returned."""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

from bezoar.errors import BudgetError, EndpointError, RecipeError, UnfinishedError
from bezoar.llm.ask_remote import RemoteAsking
from bezoar.llm.asking import Asking
from bezoar.llm.batch import BatchAsking
from bezoar.llm.begun import FOUND, Way, find_way, probe, stored_probes
from bezoar.llm.budget import FREE, REFUSED, Budget, Prices
from bezoar.llm.distinct import Distinct
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.failures import is_unable
from bezoar.llm.held import KEYS, HeldBy, find_key, is_held
from bezoar.llm.held import probe as probe_form
from bezoar.llm.journal import Entry, Journal
from bezoar.llm.meter import Meter
from bezoar.llm.types import FINAL, Backend, Reply, Request
from bezoar.model.structured_output import Kind
from bezoar.progress import Progress
from bezoar.stop import unbroken

_TOKENS = ("prompt_tokens", "completion_tokens")
_LEAST_USD = 1e-8  # more than rounding lets pass where nothing is left
_AGAIN = ("sent_again", "timed_out")


class Pool:
    """A language model behind its journal and budget; `ask` is an `Ask`.

    Groups that are answered together are made from all requests of a call, answered or not, so a
    local model's batches, and with them the last bits of its answers, do not depend on where an
    earlier process died.
    """

    def __init__(
        self,
        backend: Backend | EndpointBackend,
        journal: Journal,
        budget: Budget,
        progress: Progress,
        stage: str = "",
        title: str = "",
    ) -> None:
        self.backend, self.journal, self.budget = backend, journal, budget
        self.progress, self.stage = progress, stage
        # whether a stage asks for all at once: each batch may take a day
        self.whole = isinstance(backend, EndpointBackend) and bool(backend.endpoint.batch)
        # what an endpoint is asked first, with a place for how many requests; told once
        self.title, self._probing = title, False
        self._prices: Prices = getattr(backend, "prices", None) or FREE
        self._usd_per_s: float = getattr(backend, "usd_per_hour", 0.0) / 3600
        numbers = ("asked", "from_journal", "failed", "refused_by_budget", *_TOKENS, *_AGAIN)
        self._counts: dict[str, float] = dict.fromkeys(numbers, 0)
        self._counts |= dict.fromkeys(("cost_usd", "own_usd", "paid_now_usd", "seconds"), 0.0)
        self._counted = Distinct()

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`; what failed or was refused has finish "error"."""
        started = time.monotonic()
        identity = self.backend.identity
        keys = [request.key(identity) for request in requests]
        # equal requests are one question: asked, paid and journalled once
        unique = dict(zip(keys, requests, strict=True))
        if isinstance(self.backend, EndpointBackend):
            # bodies that a killed process left unread are read now, not asked for again
            replies = self.journal.look_up(unique, self.backend.read)
        else:
            replies = self.journal.get_many(unique)
        num_known = len(replies)
        unknown = (request for key, request in unique.items() if key not in replies)
        for kind in sorted({request.form.kind for request in unknown if request.form}):
            self._find_held(kind)
        # nothing is opened, and no bar shown, for a stage that the journal answers
        if num_known < len(unique):
            with self.progress.bar("replies", len(unique)) as advance:
                advance(num_known)
                self._meter = Meter(advance, self.budget)
                if isinstance(self.backend, EndpointBackend):
                    self._ask_endpoint(self.backend, unique, replies)
                else:
                    self._ask_here(self.backend, unique, replies)
        seconds = time.monotonic() - started
        self._counts["seconds"] += seconds
        # the parts of a stage may share questions, and each is one reply on the bill
        again = self._counted.among(list(unique)) if num_known else set()
        new = {key: reply for key, reply in replies.items() if key not in again}
        self._count(new, num_known - len(again))
        self._counted.add(k for k, r in new.items() if r.finish != "error" or r.failure in FINAL)
        if num_known < len(unique):
            now = {"asked": len(unique), "from_journal": num_known, "seconds": round(seconds, 3)}
            self.progress.log(event="replies", **now, totals=self.counts())
        return [replies[key] for key in keys]

    def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """`ask`, for work that needs every answer that can still come.

        UnfinishedError, after all others have been answered, if requests failed that may be
        answered another time, BudgetError if money was wanting: the same command asks only those.
        """
        if isinstance(self.backend, EndpointBackend) and self.backend.way is None:
            self._find_way(self.backend, [request for request in requests if request.prefill])
        replies = self.ask(requests)
        self._check_paid(replies)
        failed = [reply for reply in replies if reply.passing]
        if failed:
            what = f"{len(failed)} of {len(replies)} requests failed for a reason that can pass"
            why = f"the last one because {failed[-1].error}"
            fix = "what was answered is kept, and the same command asks for the rest"
            raise UnfinishedError(f"{what}, {why}; {fix}.")
        return replies

    def _check_paid(self, replies: Sequence[Reply]) -> None:
        num_unasked = sum(reply.failure == "budget" for reply in replies)
        if num_unasked:
            what = f"{num_unasked} of {len(replies)} requests were not asked"
            fix = f"raise {self.budget.raise_key} and run the same command to go on"
            raise BudgetError(f"{what}: {self.budget.shortfall}; {fix}.")

    def counts(self) -> dict[str, float]:
        """What this pool did. Tokens and `cost_usd` are those of all replies, whoever paid for them
        and when; this run has paid `own_usd` of it, this process `paid_now_usd`. What the budget
        refused counts for itself alone, neither as asked nor as failed; `sent_again` are requests
        that had no answer, `timed_out` those of them whose time was over."""
        counts = dict(self._counts)
        for name, digits in (("cost_usd", 6), ("own_usd", 6), ("paid_now_usd", 6), ("seconds", 3)):
            counts[name] = round(counts[name], digits)
        return counts

    def _find_way(self, backend: EndpointBackend, begun: list[Request]) -> None:
        """Find out how the endpoint goes on with begun answers, if the journal lacks one of them;
        it knows the probes of earlier stages too."""
        keys = {request.key(backend.identity) for request in begun}
        if keys <= self.journal.get_many(keys).keys():
            return
        known = stored_probes(backend.identity, self.journal.get_many)

        def ask(way: Way) -> Reply:
            backend.way = way
            return self._probe(probe(way))

        backend.way = find_way(known, ask)
        if not known:
            self.progress.say(f"  {self.stage}: {backend.endpoint.urls[0]} {FOUND[backend.way]}")

    def _find_held(self, kind: Kind) -> None:
        """Find out how the endpoint is asked for answers of a form; RecipeError for a backend that
        gives none, EndpointError for a server that was asked and does not."""
        if not isinstance(self.backend, EndpointBackend):
            if not getattr(self.backend, "holds_forms", False):
                what = f"the backend {self.backend.identity} holds answers to no form ({kind})"
                raise RecipeError(f"{what}; take a local one, or leave `structured` out.")
            return
        backend, held_by = self.backend, self.backend.held_by
        if kind in held_by:
            return

        def ask(by: HeldBy) -> Reply:
            held_by[kind], request = by, probe_form(kind, by)
            # a server that did not hold to it may have been started anew, with what is wanted
            while known := list(self.journal.get_many([request.key(backend.identity)]).values()):
                if is_held(kind, known[0].text):
                    break
                request = replace(request, seed=request.seed + len(KEYS[kind]))
            return self._probe(request)

        by, why = find_key(kind, ask)
        if by is None:
            held_by.pop(kind, None)
            what = f"the server does not hold answers to a form ({kind}; {why})"
            fix = "serve the model with vLLM or take a local one, or leave `structured` out"
            raise EndpointError(f"{backend.endpoint.urls[0]}: {what}; {fix}.")

    def _probe(self, request: Request) -> Reply:
        """The answer to a question about the server itself. BudgetError or UnfinishedError where
        none came, which tells nothing of the server."""
        title, self.title, self._probing = self.title, "", True
        try:
            reply = self.ask([request])[0]
        finally:
            self.title, self._probing = title, False
        self._check_paid([reply])
        if reply.passing and not is_unable(reply.error):
            what = f"how it is asked could not be found out, because {reply.error}"
            raise UnfinishedError(f"{what}; run the same command to go on.")
        return reply

    def _ask_endpoint(
        self, backend: EndpointBackend, unique: dict[str, Request], replies: dict[str, Reply]
    ) -> None:
        def on_reply(key: str, reply: Reply, asked_here: bool) -> None:
            replies[key] = reply
            if asked_here:
                self._counts["paid_now_usd"] += reply.cost_usd
            self._meter.tick([reply])

        backend.reach(self.progress.say)
        unknown = {key: request for key, request in unique.items() if key not in replies}
        parts = (self.journal, self.budget, on_reply, self.stage, self.progress.say)
        # a probe is one short question, which nobody wants to wait hours for
        by_batch = backend.endpoint.batch and not self._probing
        kind = BatchAsking if by_batch else RemoteAsking
        asking = kind(Asking(backend, unknown, *parts))
        if self.title:
            num = len(unknown)
            requests = "1 request" if num == 1 else f"{num} requests"
            most = backend.endpoint.concurrency * len(backend.endpoint.urls)
            how = "in batches" if by_batch else f"{min(num, most)} at a time"
            self.progress.say(f"{self.title.replace('{}', requests, 1)}, {how}")
            self.title = ""
        try:
            asking.run()
        finally:
            self._counts["sent_again"] += asking.num_resent
            self._counts["timed_out"] += asking.num_timed_out

    def _ask_here(
        self, backend: Backend, unique: dict[str, Request], replies: dict[str, Reply]
    ) -> None:
        keys, requests, known = list(unique), list(unique.values()), frozenset(replies)
        # 1) Groups come from all requests, and only then lose those that are answered: made from
        #    the rest, a run that goes on would batch differently from one that was not stopped.
        for group in backend.batches(requests):
            waiting = [index for index in group if keys[index] not in known]
            while waiting:
                # 2) A wave is as much of a group as the budget surely covers. The reservation is
                #    given back after each, since real costs are lower and may allow more.
                #    What time will cost is not known: a group is begun while any money is left.
                least = _LEAST_USD if self._usd_per_s else 0.0
                prices = [self._prices.most_usd(requests[index]) or least for index in waiting]
                num_paid, _ = self.budget.reserve(prices)
                wave, waiting = waiting[:num_paid], waiting[num_paid:]
                if not wave:
                    refused = Reply(finish="error", error=REFUSED, failure="budget")
                    replies.update((keys[index], refused) for index in waiting)
                    break
                try:
                    self._answer(backend, {keys[i]: requests[i] for i in wave}, replies)
                finally:
                    self.budget.end()

    def _answer(
        self, backend: Backend, wave: dict[str, Request], replies: dict[str, Reply]
    ) -> None:
        # an interrupt that comes while replies are journalled is handed to the backend, as if it
        # had come while the backend worked: it may still have answers to give before it stops
        keys, requests = list(wave), list(wave.values())
        stream = backend.answer(requests)
        began = time.monotonic()
        answers = next(stream, None)
        while answers is not None:
            usd = (time.monotonic() - began) * self._usd_per_s / max(len(answers), 1)
            if usd:
                answers = [(i, replace(reply, cost_usd=usd)) for i, reply in answers]
            began = time.monotonic()
            try:
                with unbroken():
                    self._keep([(keys[i], requests[i], reply) for i, reply in answers], replies)
            except KeyboardInterrupt as interrupt:
                if not isinstance(stream, Generator):
                    raise
                answers = stream.throw(interrupt)
            else:
                answers = next(stream, None)

    def _keep(self, answered: list[tuple[str, Request, Reply]], replies: dict[str, Reply]) -> None:
        """Journal replies, then count them and hand them on."""
        origin = (self.backend.identity, self.budget.run, self.stage)
        self.journal.put_many([Entry(*reply, *origin) for reply in answered])
        # another process may have answered the same question first; then that answer is the one
        stored = self.journal.get_many(key for key, _, _ in answered)
        replies.update((key, stored.get(key, reply)) for key, _, reply in answered)
        self._counts["paid_now_usd"] += sum(reply.cost_usd for _, _, reply in answered)
        self._meter.tick([reply for _, _, reply in answered])

    def _count(self, by_key: dict[str, Reply], num_known: int) -> None:
        counts, replies = self._counts, list(by_key.values())
        paid = {key: reply.cost_usd for key, reply in by_key.items() if reply.cost_usd}
        payers = self.journal.payers(paid)
        counts["own_usd"] += sum(
            usd for key, usd in paid.items() if payers.get(key) == self.budget.run
        )
        num_unasked = sum(reply.failure == "budget" for reply in replies)
        counts["refused_by_budget"] += num_unasked
        counts["asked"] += len(replies) - num_unasked
        counts["from_journal"] += num_known
        counts["failed"] += sum(reply.finish == "error" for reply in replies) - num_unasked
        for name in (*_TOKENS, "cost_usd"):
            counts[name] += sum(getattr(reply, name) for reply in replies)
