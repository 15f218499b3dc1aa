"""Asking an endpoint by its batch API: hours in place of seconds, at a lower price.

What is sent is written down before the server hears of it. A process that goes on after a kill
looks for each batch at the server, fetches what is done, and sends only what no batch holds.
"""

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bezoar.errors import UnfinishedError
from bezoar.io import content_hash
from bezoar.llm.asking import Asking
from bezoar.llm.batch_outcomes import BatchOutcomes
from bezoar.llm.batch_server import FINAL, BatchServer, CallError, in_files, refusal, request_line
from bezoar.llm.budget import REFUSED
from bezoar.llm.failures import cause_of, retry_after_s
from bezoar.llm.sent_batches import SentBatch, SentBatches
from bezoar.llm.types import UNSENDABLE, Reply

_AT_ONCE = 500  # answers in one transaction
_MOST_DELAY_S = 120.0
_GO_ON = "run the same command to go on"
# what a server says of a batch that it has no room for now
_FULL = "limit_exceeded"


class BatchAsking:
    """One run over requests, many of them in one batch. `run` returns when all are finished."""

    def __init__(self, asking: Asking) -> None:
        self.backend, self.endpoint = asking.backend, asking.backend.endpoint
        assert self.endpoint.batch
        self.how, self.requests, self.say = self.endpoint.batch, asking.requests, asking.say
        self.journal, self.budget = asking.journal, asking.budget
        url, timeout_s = self.endpoint.urls[0], self.endpoint.timeout_s
        self.server = BatchServer(url, self.backend.api_key, timeout_s)
        self.sent = SentBatches(self.journal, self.backend.identity)
        self.outcomes = BatchOutcomes(asking)
        self.num_timed_out = self._num_failed_calls = self._num_without_room = 0
        self._claimed, self._num_not_found = set[str](), Counter[str]()
        # what a server without room said in this look, and the requests it had of ours in the last
        self._full, self._beside = "", set[str]()

    @property
    def num_resent(self) -> int:
        """Requests that were sent again."""
        return self.outcomes.num_resent

    def run(self) -> None:
        """Send, wait and fetch until all is finished.

        UnfinishedError when the server refuses everyone or stays silent; what it works on is found
        again by the next run, also after an interrupt.
        """
        try:
            while self.outcomes.left:
                try:
                    wait_s = self._step()
                    self._num_failed_calls = 0
                except CallError as error:
                    wait_s = self._after(error)
                if self.outcomes.left:
                    time.sleep(wait_s)
        finally:
            for token in self._claimed:
                self.journal.claims.release(token)
            self.budget.end()

    def _step(self) -> float:
        """Fetch what is done, send what no batch holds; seconds until the next look."""
        # 1) What this or another process has journalled meanwhile.
        for key, reply in self.journal.look_up(dict(self.outcomes.left), self.backend.read).items():
            self.outcomes.finish(key, reply, asked_here=False)
        # 2) Batches at the server, those of killed processes too.
        pending: set[str] = set()
        for batch in self.sent.open():
            if not self.requests.keys() & batch.keys:
                continue
            if self._take(batch):
                pending |= self._look(batch)
            else:
                pending |= set(batch.keys)
        self.outcomes.settle_refusals()
        if any(self.outcomes.fault):
            self._stop(*self.outcomes.fault)
        if self._full:
            self._without_room(pending)
        # 3) The rest, alone: two processes would else send the same.
        new = [key for key in self.outcomes.left if key not in pending]
        alone = content_hash("batches", self.backend.identity)
        # room comes when one of them ends, and a file may have 100 MB
        is_full = bool(self._beside) and self._beside <= pending
        if not new or is_full or not self.journal.claims.take(alone):
            return self.how.poll_s
        try:
            held = {key for batch in self.sent.open() for key in batch.keys}
            # between the look of 1) and the claim others may have sent these, or had them answered
            held |= self.journal.get_many(new).keys()
            new = [key for key in new if key not in held]
            return self.how.poll_s if self._send(new, waits=bool(pending)) else 0.0
        finally:
            self.journal.claims.release(alone)

    def _claim(self, token: str) -> bool:
        """Whether this process is the one that fetches a batch."""
        if token not in self._claimed and self.journal.claims.take(token):
            self._claimed.add(token)
        return token in self._claimed

    def _take(self, batch: SentBatch) -> bool:
        """Whether this process fetches an open batch; then it holds the batch's money, which the
        process that sent it gave back when it stopped."""
        if batch.token in self._claimed:
            return True
        if not self._claim(batch.token):
            return False
        paid = self.outcomes.met(batch.id, batch.keys) | self.outcomes.usd.keys()
        keys = [key for key in batch.keys if key in self.outcomes.left and key not in paid]
        usd = {key: self._most_usd(key, line) for key, line in self._lines(keys)}
        self.outcomes.usd |= usd
        self.budget.hold(sum(usd.values()))
        return True

    def _look(self, batch: SentBatch) -> set[str]:
        """`_fetch`, of a batch that the server may have forgotten."""
        batch = self._found(batch)
        try:
            return set(self._fetch(batch))
        except CallError as error:
            if error.status != 404:
                raise
            # a gateway may say so once of a batch that is there, and is paid for
            self._num_not_found[batch.token] += 1
            if self._num_not_found[batch.token] <= self.endpoint.retries:
                return set(batch.keys)
            what = "the server no longer has it, or the key is another account's"
            self.say(f"batch {batch.id}: {what}; what it did not answer is sent again")
            self.sent.keep(batch.token, [key for key in batch.keys if key not in self.requests])
            for key in batch.keys:
                self.outcomes.again(key, Reply(finish="error", error=f"batch {batch.id}: {what}"))
            return set()

    def _without_room(self, pending: set[str]) -> None:
        """Wait for a batch to end; UnfinishedError where the server works on none of ours."""
        said, self._full, self._beside = self._full, "", pending
        self._num_without_room += not pending
        if self._num_without_room > self.endpoint.retries:
            fix = "lower batch.max_requests, or wait for other batches of the account to end"
            self._stop(f"the server has no room for a batch ({said})", f"{fix}, and {_GO_ON}")

    def _found(self, batch: SentBatch) -> SentBatch:
        """A batch with its id; one that the server never made is forgotten."""
        if batch.id:
            return batch
        found = self.server.find(batch.token)
        if found is None:
            self._give_up(batch, ())
            return batch
        self.sent.name(batch.token, str(found["id"]))
        return batch._replace(id=str(found["id"]))

    def _give_up(self, batch: SentBatch, others: Sequence[str]) -> None:
        """Forget what no batch is made of, and give its money back; `others` stay to be fetched."""
        self.sent.keep(batch.token, others)
        for key in batch.keys:
            self.budget.release(self.outcomes.usd.pop(key, 0.0))

    def _send(self, keys: Sequence[str], *, waits: bool) -> bool:
        """Make batches of requests, as far as the money goes; whether to wait for anything."""
        for chunk in in_files(self._lines(keys), self.how.max_requests):
            # an answer mostly costs less than was reserved, so that what waits may find room
            num_paid, others_usd = self._reserve(chunk)
            if chunk[:num_paid]:
                self._create(chunk[:num_paid])
                waits = True
            if num_paid < len(chunk):
                if not waits and not others_usd:
                    refused = Reply(finish="error", error=REFUSED, failure="budget")
                    for key in list(self.outcomes.left):
                        self.outcomes.finish(key, refused, asked_here=False)
                return True
        return waits

    def _reserve(self, chunk: list[tuple[str, bytes]]) -> tuple[int, float]:
        prices = []
        for key, line in chunk:  # what was reserved before a call that failed is reserved still
            prices.append(0.0 if key in self.outcomes.usd else self._most_usd(key, line))
        num_paid, others_usd = self.budget.reserve(prices)
        for (key, _), usd in zip(chunk[:num_paid], prices, strict=False):
            self.outcomes.usd.setdefault(key, usd)
        return num_paid, others_usd

    def _most_usd(self, key: str, line: bytes) -> float:
        return self.backend.most_usd(self.requests[key], line) * self.how.price_share

    def _create(self, chunk: list[tuple[str, bytes]]) -> None:
        keys = [key for key, _ in chunk]
        batch = SentBatch(secrets.token_hex(16), "", keys)
        file = self.server.upload(b"".join(line for _, line in chunk))
        # claimed first: another process would take it for one of a killed run
        self._claim(batch.token)
        # from here on a kill leaves a trace, by which the batch is found or known not to exist
        self.sent.add(batch)
        try:
            made = self.server.create(file, batch.token, self.how.window)
        except CallError as error:
            if 400 <= error.status < 500 and error.status not in (408, 409):
                self._give_up(batch, ())
            raise
        self.sent.name(batch.token, str(made["id"]))
        num = "1 request" if len(keys) == 1 else f"{len(keys):,} requests"
        self.say(f"batch {made['id']}: {num} sent, to be answered within {self.how.window}")

    def _lines(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for key in keys:
            try:
                yield key, request_line(key, self.backend.body(self.requests[key]))
            except UnicodeEncodeError:
                self.outcomes.fail(key, Reply(finish="error", error=UNSENDABLE, failure="refused"))

    def _fetch(self, batch: SentBatch) -> list[str]:
        """Take over what a batch has; the keys that it still works on."""
        if not batch.id:
            return []
        state = self.server.get(batch.id)
        status = state.get("status")
        if status not in FINAL:
            return batch.keys
        if status == "failed":
            self._refuse(batch, state)
            return []
        self._num_without_room = 0
        # 1) Answers, and errors of single requests, in groups: each group is on the disk before
        #    the batch is known to lack it.
        wanted, met = {k for k in batch.keys if k in self.requests}, Counter[str]()
        done = self.journal.get_many(wanted).keys() | self.outcomes.met(batch.id, wanted)
        for name in ("output_file_id", "error_file_id"):
            group: dict[str, dict[str, Any]] = {}
            for row in self.server.lines(state[name]) if state.get(name) else ():
                key = str(row.get("custom_id"))
                if key in wanted and key not in done:
                    group[key] = row
                    done.add(key)
                if len(group) == _AT_ONCE:
                    met.update(self.outcomes.store(batch.id, group))
                    group = {}
            met.update(self.outcomes.store(batch.id, group))
        # 2) What has neither is sent again. Requests of others stay theirs to fetch.
        missing = [key for key in wanted - done if key in self.outcomes.left]
        for key in missing:
            self.outcomes.again(key, Reply(finish="error", error=f"the batch {status} without it"))
        self.sent.keep(batch.token, [key for key in batch.keys if key not in wanted])
        told = ", ".join(f"{num:,} {what}" for what, num in met.items() if num)
        absent = f"; {len(missing)} without an answer" if missing else ""
        self.say(f"batch {batch.id} {status}: {told or 'nothing new'}{absent}")
        return []

    def _refuse(self, batch: SentBatch, state: dict[str, Any]) -> None:
        """The server takes a batch not at all, or has no room for it now."""
        self._give_up(batch, [key for key in batch.keys if key not in self.requests])
        said = refusal(state)
        # how much a server holds for an account is not known beforehand
        if _FULL in said:
            self.say(f"batch {batch.id}: the server has no room for it now ({said})")
            self._full = said
            return
        what = f"the server refuses the batch {batch.id} ({said})"
        self._stop(what, f"correct the backend's settings and {_GO_ON}")

    def _after(self, error: CallError) -> float:
        """Seconds to wait after a call that failed; UnfinishedError if it will fail again."""
        said = " ".join(error.said.split())[:200]
        if error.status and cause_of(error.status, error.said) != "passing":
            self._stop(*self.endpoint.advice(error.status, said))
        self._num_failed_calls += 1
        if self._num_failed_calls > self.endpoint.retries:
            self._stop(f"its batch API does not answer ({said})", f"see to the server and {_GO_ON}")
        delay_s = self.endpoint.backoff_s * 2.0 ** (self._num_failed_calls - 1)
        return max(min(delay_s, _MOST_DELAY_S), retry_after_s(error.retry_after))

    def _stop(self, what: str, fix: str) -> None:
        raise UnfinishedError(f"{self.endpoint.urls[0]}: {what}; {fix}.")
