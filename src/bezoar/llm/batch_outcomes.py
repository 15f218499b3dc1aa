"""What follows from the outcomes of requests in batches, and which have none yet."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from bezoar.llm.asking import Asking
from bezoar.llm.batch_server import outcome
from bezoar.llm.endpoint import batch_body, is_of_batch
from bezoar.llm.failures import cause_of, refusal_of, status_inside
from bezoar.llm.openai_format import NO_CHOICE, NO_LOGPROBS
from bezoar.llm.types import Reply
from bezoar.stop import unbroken


class BatchOutcomes:
    """`left` are the requests (by key) that are not finished, `usd` the money that is reserved for
    each, `fault` what ends the run once all others are kept: what is wrong, and what to do."""

    def __init__(self, asking: Asking) -> None:
        self.asking, self.backend, self.endpoint = asking, asking.backend, asking.backend.endpoint
        self.journal, self.budget = asking.journal, asking.budget
        self.left, self.usd, self.fault = dict(asking.requests), dict[str, float](), ("", "")
        self.num_resent = 0
        self._tries, self._refused = Counter[str](), dict[str, Reply]()
        self._failed_in = defaultdict[str, set[str]](set)

    def met(self, batch: str, keys: Collection[str]) -> set[str]:
        """Those of `keys` whose failure in a batch is known: a file that broke off is read again,
        and what it said is neither charged nor counted twice."""
        bodies = self.journal.failed_bodies(keys)
        return {key for key, body in bodies if is_of_batch(batch, body)} | self._failed_in[batch]

    def store(self, batch: str, rows: dict[str, dict[str, Any]]) -> Counter[str]:
        """Journal outcomes, then act on them; what each was."""
        outcomes = {key: outcome(row) for key, row in rows.items()}
        entries = []
        for key, (status, said) in outcomes.items():
            if status == 200:
                body = batch_body(batch, self.endpoint.price_share, said)
                entries.append(self.asking.entry(key, self._read(key, body), body))
        # an interrupt between the two would leave answers in the journal that nobody counted
        with unbroken():
            self.journal.put_many(entries)
            for entry in entries:
                assert entry.reply
                self._act(entry.key, entry.reply, json.dumps(outcomes[entry.key][1]))
            for key, (status, body) in outcomes.items():
                if status != 200:
                    self._failed_in[batch].add(key)
                    said = json.dumps(body)[:4000]
                    error = f"the server answered {status}: {said[:200]}"
                    self._failed(key, status, said, Reply(finish="error", error=error))
        num = sum(entry.reply is not None and entry.reply.finish != "error" for entry in entries)
        return Counter(answered=num, failed=len(rows) - num)

    def _read(self, key: str, body: str) -> Reply:
        reply = self.backend.read(body, self.asking.requests[key])
        may_retry = reply.error == NO_CHOICE and self._tries[key] < self.endpoint.retries
        return replace(reply, failure="passing") if may_retry else reply

    def _act(self, key: str, reply: Reply, body: str) -> None:
        status = status_inside(body) if reply.passing else None
        if reply.error == NO_LOGPROBS:
            fix = "write `verdict: text` in the judge"
            self.fault = f"{NO_LOGPROBS}, which choices need", fix
        if status is not None:
            self._failed(key, status, body, reply)
        elif reply.passing:
            self.again(key, reply)
        else:
            self.finish(key, reply)

    def _failed(self, key: str, status: int, said: str, reply: Reply) -> None:
        """What follows from a request in a batch that has no answer."""
        cause = cause_of(status, said) if status else "passing"
        if cause == "passing":
            self.again(key, replace(reply, failure="passing"))
        elif cause == "endpoint":
            # told once all others of the batch are kept
            self.fault = self.endpoint.advice(status, " ".join(said.split())[:200])
        elif key in self.left:
            self._refused[key] = replace(reply, failure="passing")

    def settle_refusals(self) -> None:
        """End the requests that were refused."""
        # final if the endpoint answers others, else worth another run
        final = bool(self._refused) and self.journal.answered(self.backend.identity)
        for key, reply in self._refused.items():
            self.fail(key, replace(reply, failure=refusal_of(reply.error)) if final else reply)
        self._refused = {}

    def again(self, key: str, reply: Reply) -> None:
        """Let a request be sent again, or fail when it was sent as often as it may."""
        self._tries[key] += 1
        self.budget.release(self.usd.pop(key, 0.0))
        if self._tries[key] <= self.endpoint.retries:
            self.num_resent += key in self.left
        elif key in self.left:
            self.fail(key, reply)

    def fail(self, key: str, reply: Reply) -> None:
        """Journal a failure, and finish the request."""
        self.journal.put_many([self.asking.entry(key, reply)])
        self.finish(key, reply)

    def finish(self, key: str, reply: Reply, *, asked_here: bool = True) -> None:
        """A request needs nothing more."""
        self.budget.release(self.usd.pop(key, 0.0))
        if self.left.pop(key, None):
            self.asking.on_reply(key, reply, asked_here)
