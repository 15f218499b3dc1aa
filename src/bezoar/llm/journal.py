"""The journal: every reply of a language model, on the disk before anything reads it.

One SQLite file that only grows. A key may have several entries (failed attempts, two processes that
asked at once); the first that did not fail is the answer, for ever. WAL lets readers go on while
one process writes. `synchronous=FULL` makes a commit of replies wait for the disk: a reply may have
been paid for, and a commit covers many replies, so the wait is small. What follows from replies
that are already there (how they read, what they cost) is written without that wait.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bezoar.errors import DataError
from bezoar.llm.journal_file import JournalFile
from bezoar.llm.types import FINAL, Reply, Request

# the column failed: answered; may be answered another time; will never be
_ANSWER, _ATTEMPT, _FINAL = 0, 1, 2
_INSERT = (
    "INSERT INTO replies (key, request, reply, model, run, stage, time_s, failed, cost_usd, body)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_SETTLE = "UPDATE replies SET reply = ?, failed = ?, cost_usd = ? WHERE id = ?"
_SPEND = "INSERT INTO spent VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET usd = usd + excluded.usd"
_RESERVED = "SELECT key, usd FROM reserved WHERE run = ? AND key <> ?"


@dataclass(frozen=True)
class Entry:
    """One reply as it is written: `model` is the backend's identity, `run` and `stage` asked.

    `body` is what a server sent; with `reply` None it has not been read yet.
    """

    key: str
    request: Request
    reply: Reply | None
    model: str
    run: str = ""
    stage: str = ""
    body: str | None = None


class Journal(JournalFile):
    """The replies in the file `path`; `get_many` finds them by the keys of their requests."""

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Replies by key: answers, and failures that are final. Unread bodies do not count."""
        replies: dict[str, Reply] = {}
        for number, key, text, body in self._select(keys, "reply <> '' AND failed <> 1"):
            try:
                value = json.loads(text)
                # the word of older journals
                if isinstance(value, dict) and value.get("failure") == "unreadable":
                    value["failure"] = "malformed"
                # the first entry comes last, an answer after a failure
                replies[key] = Reply(**{**value, "logprobs": tuple(value["logprobs"])})
            except (ValueError, TypeError, KeyError, RecursionError):
                if body is None:  # else it can be read again
                    fix = "remove it with sqlite3, and its question is asked again"
                    raise DataError(f"{self.path}: entry {number} is damaged; {fix}.") from None
        return replies

    def look_up(
        self, requests: Mapping[str, Request], read: Callable[[str, Request], Reply]
    ) -> dict[str, Reply]:
        """`get_many` of `requests` (by key), after `read` has read bodies that nobody did."""
        is_unread = "body IS NOT NULL AND failed <> 1 AND (reply = '' OR NOT json_valid(reply))"
        rows = self._select(requests, is_unread)
        self.settle([(number, read(body or "", requests[key])) for number, key, _, body in rows])
        return self.get_many(requests)

    def tried(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that were asked once and failed for a reason that can pass."""
        return {key for _, key, _, _ in self._select(keys, "failed = 1")}

    def failed_bodies(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """(key, what a server sent) of the failures of `keys` that can pass."""
        return self._select(keys, "failed = 1 AND body IS NOT NULL", "key, body")

    def _select(
        self, keys: Iterable[str], condition: str, columns: str = "id, key, reply, body"
    ) -> list[Any]:
        """`columns` of entries, the first one last, answers after failures."""
        # in parts: SQLite limits the number of values in a query
        wanted, rows = list(dict.fromkeys(keys)), []
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            where = f"key IN ({','.join('?' * len(some))}) AND {condition}"
            sql = f"SELECT {columns} FROM replies WHERE {where}"
            rows += self._rows(f"{sql} ORDER BY failed DESC, id DESC", some)
        return rows

    def put_many(self, entries: Sequence[Entry]) -> list[int]:
        """Write `entries` in one transaction, on the disk on return. Their numbers, in order."""
        # made before the transaction, which other processes wait for
        now, rows = time.time(), list[tuple[Any, ...]]()
        for entry in entries:
            request, reply = json.dumps(asdict(entry.request)), _json(entry.reply)
            origin = (entry.model, entry.run, entry.stage, now)
            outcome = (_failed(entry.reply), entry.reply.cost_usd if entry.reply else 0.0)
            rows.append((entry.key, request, reply, *origin, *outcome, entry.body))

        def write() -> list[int]:
            for entry in entries:
                if entry.reply and entry.reply.cost_usd:
                    self._db.execute(_SPEND, (entry.run, entry.reply.cost_usd))
            return [int(self._db.execute(_INSERT, row).lastrowid or 0) for row in rows]

        return self._write(write)

    def settle(self, replies: Sequence[tuple[int, Reply]]) -> None:
        """Write how bodies (by number) read and what they cost; the bodies are safe already."""

        def write() -> None:
            for number, reply in replies:
                # a number, whatever damage has made of the column
                charged = "SELECT run, CAST(cost_usd AS REAL) FROM replies WHERE id = ?"
                run, before_usd = self._db.execute(charged, (number,)).fetchone()
                values = (_json(reply), _failed(reply), reply.cost_usd, number)
                self._db.execute(_SETTLE, values)
                # charged to the run that asked, which need not be the one that reads
                if reply.cost_usd != before_usd:
                    self._db.execute(_SPEND, (run, reply.cost_usd - before_usd))

        if replies:
            self._write(write, durable=False)

    def answered(self, model: str) -> bool:
        """Whether `model` has ever answered a request."""
        sql = "SELECT 1 FROM replies WHERE model = ? AND failed = 0 LIMIT 1"
        return bool(self._rows(sql, (model,)))

    def spent_usd(self, run: str, stage: str = "") -> float:
        """What the replies that `run` (or a stage of it) asked for have cost, failed ones too."""
        total = 0.0
        if stage:
            sql = "SELECT COALESCE(SUM(cost_usd), 0) FROM replies WHERE run = ? AND stage = ?"
            total = float(self._rows(sql, (run, stage))[0][0])
        # of a stage, what was pruned
        key = f"{run}\n{stage}" if stage else run
        rows = self._rows("SELECT usd FROM spent WHERE key = ?", (key,))
        return total + (float(rows[0][0]) if rows else 0.0)

    def payers(self, keys: Iterable[str]) -> dict[str, str]:
        """The run that asked for the reply that `get_many` finds, by key."""
        return dict(self._select(keys, "reply <> '' AND failed <> 1", "key, run"))

    def reserve(
        self, owner: str, run: str, held_usd: float, prices: Sequence[float], *, limit_usd: float
    ) -> tuple[int, float]:
        """(how many of the next requests, which cost at most `prices`, fit into the run's limit;
        US dollars that other processes of the run hold). Their money is reserved for `owner` (hex
        digits, claimed) beside the `held_usd` that it holds already."""

        def write() -> tuple[int, float]:
            # 1) What is spent and reserved is read under the write lock, so that two processes
            #    cannot both take the last money.
            sql = "SELECT COALESCE(SUM(usd), 0) FROM spent WHERE key = ?"
            spent_usd = self._db.execute(sql, (run,)).fetchone()[0]
            others = dict(self._db.execute(_RESERVED, (run, owner)).fetchall())
            # 2) A process that was killed gave nothing back, but its claim went with it.
            for dead in [key for key in others if not self.claims.taken(key)]:
                self._db.execute("DELETE FROM reserved WHERE key = ?", (dead,))
                del others[dead]
            others_usd = sum(others.values())
            # 3) Only then is it known what is left.
            count = affordable(prices, limit_usd - spent_usd - others_usd - held_usd)
            reserved = (owner, run, held_usd + sum(prices[:count]))
            self._db.execute("INSERT OR REPLACE INTO reserved VALUES (?, ?, ?)", reserved)
            return count, others_usd

        return self._write(write, durable=False)

    def entries(self, *, stage: str | None = None) -> list[dict[str, Any]]:
        """Every entry (of a stage) in the order of writing. DataError for a damaged one."""
        names = ("key", "request", "reply", "model", "run", "stage", "time_s", "body")
        where, values = ("WHERE stage = ?", (stage,)) if stage is not None else ("", ())
        rows = self._rows(f"SELECT {', '.join(names)} FROM replies {where} ORDER BY id", values)
        entries = [dict(zip(names, row, strict=True)) for row in rows]
        try:
            for entry in entries:
                entry["request"] = json.loads(entry["request"])
                entry["reply"] = json.loads(entry["reply"] or "{}")
        except (ValueError, TypeError, RecursionError):
            fix = "put back a copy, or mend it with sqlite3"
            raise DataError(f"{self.path}: a request or reply in it is no JSON; {fix}.") from None
        return entries


def affordable(prices: Sequence[float], room_usd: float) -> int:
    """How many requests from the first on fit into `room_usd`; what costs nothing always does."""
    total = 0.0
    for count, usd in enumerate(prices):
        total += usd
        # sums of prices are inexact: a limit that they reach exactly must still suffice
        if usd > 0 and total > room_usd + 1e-9:
            return count
    return len(prices)


def _json(reply: Reply | None) -> str:
    return json.dumps(asdict(reply)) if reply else ""


def _failed(reply: Reply | None) -> int:
    if reply is None or reply.finish != "error":
        return _ANSWER
    return _FINAL if reply.failure in FINAL else _ATTEMPT
