"""What people do with a journal: they look at it, search it, take it elsewhere and prune it."""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from bezoar.errors import DataError
from bezoar.llm.journal import Journal
from bezoar.llm.types import Reply, Request

_COLUMNS = ("id", "key", "request", "reply", "model", "run", "stage", "time_s", "cost_usd", "body")
_PART, _NEWEST = 500, 5000
ABSENT = Reply(finish="error", error="there is no stored reply", failure="passing")
"""The reply of a question that was never asked."""
# what nobody reads: an attempt that failed and may be made again, and a second answer to a question
_USELESS = (
    "(failed = 1 OR EXISTS (SELECT 1 FROM replies AS first WHERE first.key = replies.key"
    " AND first.reply <> '' AND first.failed <> 1"
    " AND (first.failed, first.id) < (replies.failed, replies.id)))"
)


@dataclass(frozen=True)
class Choice:
    """Which entries are meant; what is empty leaves all."""

    run: str = ""
    stage: str = ""
    model: str = ""
    """A part of the backend's identity, such as the model's name or the address."""
    key: str = ""
    """A key or its beginning."""
    failed: bool = False
    """Those alone that failed."""
    before_s: float | None = None
    """Seconds since 1970."""

    def where(self) -> tuple[str, list[Any]]:
        """A condition of SQL and its values."""
        parts: list[tuple[str, Any]] = []
        parts += [("run = ?", self.run)] if self.run else []
        parts += [("stage = ?", self.stage)] if self.stage else []
        parts += [("instr(model, ?) > 0", self.model)] if self.model else []
        parts += [(f"substr(key, 1, {len(self.key)}) = ?", self.key)] if self.key else []
        parts += [("failed > ?", 0)] if self.failed else []
        parts += [("time_s < ?", self.before_s)] if self.before_s is not None else []
        return " AND ".join(part for part, _ in parts) or "1", [value for _, value in parts]


class Pruned(NamedTuple):
    """How many entries go, those of them that are somebody's answer, and what these have cost."""

    num: int
    num_answers: float
    usd: float


class Usage(NamedTuple):
    """What answers took: how many there were, and of each number its mean and the standard error
    of that."""

    num: int
    prompt_tokens: tuple[float, float]
    completion_tokens: tuple[float, float]
    usd: tuple[float, float]


class JournalUpkeep(Journal):
    """A journal with what is done between runs."""

    def chosen(self, choice: Choice, *, newest: bool = False) -> Iterator[dict[str, Any]]:
        """Entries in the order of writing, or the newest first; a part at a time.

        `request` and `reply` are tables. DataError that names a damaged one.
        """
        condition, values = choice.where()
        way, order = ("<", "DESC") if newest else (">", "ASC")
        last = 1 << 62 if newest else -1
        while True:
            sql = f"SELECT {', '.join(_COLUMNS)} FROM replies WHERE {condition} AND id {way} ?"
            rows = self._rows(f"{sql} ORDER BY id {order} LIMIT {_PART}", [*values, last])
            for row in rows:
                yield self._entry(row)
            if not rows:
                return
            last = rows[-1][0]

    def _entry(self, row: Sequence[Any]) -> dict[str, Any]:
        entry = dict(zip(_COLUMNS, row, strict=True))
        try:
            entry["request"] = json.loads(entry["request"])
            entry["reply"] = json.loads(entry["reply"] or "{}")
        except (ValueError, TypeError, RecursionError):
            fix = f"remove it with `bezoar journal prune {self.path} --key {entry['key']} --yes`"
            raise DataError(f"{self.path}: entry {entry['id']} is damaged; {fix}.") from None
        return entry

    def num_chosen(self, choice: Choice) -> int:
        """How many entries there are of a choice."""
        condition, values = choice.where()
        return int(self._rows(f"SELECT COUNT(*) FROM replies WHERE {condition}", values)[0][0])

    def holding(self, model: str, asked: str, said: str) -> list[dict[str, Any]]:
        """The entries of a model (its identity) whose question holds one text and whose answer
        holds another."""
        condition = "model = ? AND instr(request, ?) > 0 AND instr(reply, ?) > 0 AND failed = 0"
        # as they are written there
        needles = [json.dumps(text)[1:-1] for text in (asked, said)]
        sql = f"SELECT {', '.join(_COLUMNS)} FROM replies WHERE {condition} ORDER BY id"
        rows = self._rows(sql, [model, *needles])
        return [self._entry(row) for row in rows]

    def usage(self, model: str, stage: str) -> Usage:
        """What the newest answers of a model (its identity) to stages of this name took."""
        read, wrote = (f"json_extract(reply, '$.{n}_tokens')" for n in ("prompt", "completion"))
        some = f"SELECT {read} AS p, {wrote} AS c, cost_usd AS u FROM replies"
        where = "model = ? AND stage = ? AND failed = 0 AND json_valid(reply)"
        sums = "AVG(p), AVG(p * p), AVG(c), AVG(c * c), AVG(u), AVG(u * u)"
        sql = f"SELECT COUNT(*), {sums} FROM ({some} WHERE {where} ORDER BY id DESC LIMIT ?)"
        [(num, *found)] = self._rows(sql, (model, stage, _NEWEST))
        pairs = [
            (mean, math.sqrt(max(squares - mean * mean, 0.0) / max(num - 1, 1)))
            for mean, squares in (zip(found[::2], found[1::2], strict=True) if num else ())
        ]
        return Usage(num, *pairs) if num else Usage(0, (0, 0), (0, 0), (0, 0))

    def prune(self, choice: Choice, *, remove: bool) -> Pruned:
        """Remove the chosen entries; of an empty choice, and of one that names no more than a run,
        those that nobody reads any more. Without `remove` only count them.

        What they have cost stays spent. DataError while another process asks.
        """
        condition, values = choice.where()
        read = "failed <> 1"
        if replace(choice, run="") == Choice():
            condition, read = f"({condition}) AND {_USELESS}", "0"
        # a body that came and was not read yet belongs to a process that was killed, and is read
        # by the next one
        condition = f"({condition}) AND reply <> ''"
        sql = f"COUNT(*), TOTAL({read}), TOTAL(cost_usd * ({read}))"
        if not remove:
            return Pruned(*self._rows(f"SELECT {sql} FROM replies WHERE {condition}", values)[0])
        if self.claims.anyone():
            raise DataError(f"{self.path}: a run is asking just now; wait for it or stop it.")

        def write() -> Pruned:
            found = self._db.execute(f"SELECT {sql} FROM replies WHERE {condition}", values)
            pruned = Pruned(*found.fetchone())
            # 1) A stage's money is the sum of its entries: what goes is kept beside the run's.
            self._db.execute(
                "INSERT INTO spent SELECT run || char(10) || stage, SUM(cost_usd) FROM replies"
                f" WHERE {condition} AND cost_usd > 0 GROUP BY run, stage"
                " ON CONFLICT (key) DO UPDATE SET usd = usd + excluded.usd",
                values,
            )
            self._db.execute(f"DELETE FROM replies WHERE {condition}", values)
            return pruned

        pruned = self._write(write)
        # 2) Only this gives the space back; where another process reads, it can wait.
        with self._lock, suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return pruned

    def read_again(
        self, requests: Mapping[str, Request], read: Callable[[str, Request], Reply]
    ) -> int:
        """Read the bodies that answer `requests` (by key) once more; how many replies changed.

        What a reply has cost stays. One that cannot be read now and could before stays too.
        """
        changed = list[tuple[int, Reply]]()
        rows = self._select(requests, "body IS NOT NULL AND failed <> 1 AND reply <> ''")
        for number, key, text, body in rows:
            old = json.loads(text)
            now = replace(read(body, requests[key]), cost_usd=old["cost_usd"])
            if not now.passing and json.dumps(asdict(now)) != json.dumps(old):
                changed.append((number, now))
        self.settle(changed)
        return len(changed)
