"""The journal: every reply of a language model, on the disk before anything reads it.

One SQLite file that only grows. A key may have several entries (failed attempts, two processes that
asked at once); the first that did not fail is the answer, for ever. WAL lets readers go on while
one process writes. `synchronous=FULL` makes a commit of replies wait for the disk: a reply may have
been paid for, and a commit covers many replies, so the wait is small. What follows from replies
that are already there (how they read, what they cost) is written without that wait.
"""

import errno
import json
import os
import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bezoar.errors import DataError
from bezoar.llm.budget import affordable
from bezoar.llm.claims import Claims
from bezoar.llm.types import Reply, Request

_VERSION = 2
_BUSY_S = 0.25
"""How long SQLite itself waits for another process; then Python may see to a Ctrl-C, and waits
again."""
_TELL_S = 2.0
# the column failed: answered; may be answered another time; will never be
_ANSWER, _ATTEMPT, _FINAL = 0, 1, 2
_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS replies (id INTEGER PRIMARY KEY, key TEXT NOT NULL, request"
        " TEXT NOT NULL, reply TEXT NOT NULL, model TEXT NOT NULL, run TEXT NOT NULL, stage TEXT"
        " NOT NULL, time_s REAL NOT NULL, failed INTEGER NOT NULL, cost_usd REAL NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS replies_by_key ON replies (key, failed)",
    "CREATE INDEX IF NOT EXISTS replies_by_run ON replies (run, cost_usd)",
)
_SINCE_2 = (
    # as the server sent it; NULL where the model ran in this process
    "ALTER TABLE replies ADD COLUMN body TEXT",
    "CREATE TABLE spent (key TEXT PRIMARY KEY, usd REAL NOT NULL)",  # by run
    # by process
    "CREATE TABLE reserved (key TEXT PRIMARY KEY, run TEXT NOT NULL, usd REAL NOT NULL)",
    "INSERT INTO spent SELECT run, SUM(cost_usd) FROM replies GROUP BY run",
    f"PRAGMA user_version = {_VERSION}",
)
_INSERT = (
    "INSERT INTO replies (key, request, reply, model, run, stage, time_s, failed, cost_usd, body)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_SPEND = "INSERT INTO spent VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET usd = usd + excluded.usd"
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Entry:
    """One reply as it is written down: `model` is the backend's identity, `run` and `stage` say who
    asked.

    `body` is what a server sent; with `reply` None it has not been read yet.
    """

    key: str
    request: Request
    reply: Reply | None
    model: str
    run: str = ""
    stage: str = ""
    body: str | None = None


class Journal:
    """The replies in the file `path`, made when it is absent, for its owner's eyes alone. Several
    processes may write to one file.

    While another process holds the file a write waits as long as it takes; `say` hears of it.
    DataError names the file when it is no journal or cannot be read; OSError (ENOSPC) when the disk
    is full.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self.path, self._say = path, say
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._durable = True
        self._db = self._guard(self._open)
        self.claims = Claims(path.with_name(path.name + ".claims"))

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            if self.path.stat().st_mode & 0o077 and self.path.stat().st_uid == os.getuid():
                self.path.chmod(0o600)
        except OSError as error:
            raise DataError(
                f"{self.path}: the journal cannot be opened ({error.strerror}); check the file and"
                " its folder."
            ) from None
        db = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._patient(lambda: db.execute("PRAGMA journal_mode = WAL"))
            db.execute("PRAGMA synchronous = FULL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise DataError(
                    f"{self.path}: the journal has version {version}, this bezoar reads {_VERSION};"
                    " update bezoar or move the file away."
                )
            if version < _VERSION:
                self._patient(lambda: db.execute("BEGIN IMMEDIATE"))
                # another process may have been faster
                version = db.execute("PRAGMA user_version").fetchone()[0]
                for statement in (*_SCHEMA, *_SINCE_2) if version < _VERSION else ():
                    db.execute(statement)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _guard(self, action: Callable[[], ResultT]) -> ResultT:
        try:
            return action()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            # a full disk shows itself as an I/O error too, where SQLite maps its index into memory
            if code == sqlite3.SQLITE_FULL or (
                code == sqlite3.SQLITE_IOERR and shutil.disk_usage(self.path.parent).free < 1 << 16
            ):
                raise OSError(errno.ENOSPC, "no space left on the disk", str(self.path)) from error
            if (
                code == sqlite3.SQLITE_IOERR
                and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
            ):
                raise OSError(
                    errno.EFBIG, "the limit on file sizes (`ulimit -f`) is reached", str(self.path)
                ) from error
            raise DataError(
                f"{self.path}: the journal cannot be used ({error}); check the file and its folder,"
                " or move it away."
            ) from error

    def _patient(self, action: Callable[[], ResultT]) -> ResultT:
        """Do `action` as soon as no other process holds the file."""
        started, told = time.monotonic(), self._say is None
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            if not told and time.monotonic() - started > _TELL_S:
                told = True
                self._say(
                    f"{self.path}: another process holds the journal;"
                    " nothing new is asked until it lets go"
                )  # type: ignore[misc]

    def _write(self, action: Callable[[], ResultT], *, durable: bool = True) -> ResultT:
        """Carry out `action` in one transaction, which is on the disk on return where it is
        `durable`."""

        def write() -> ResultT:
            if durable != self._durable:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
                self._durable = durable
            self._patient(lambda: self._db.execute("BEGIN IMMEDIATE"))
            try:
                result = action()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return result

        with self._lock:
            return self._guard(write)

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The replies to those of `keys` that are settled: answers, and failures that are final.
        Bodies not read yet do not count."""
        found: dict[str, Reply] = {}
        for number, key, text, body in self._settled(keys, "reply <> '' AND failed <> 1"):
            try:
                found[key] = _reply(text)  # the first entry comes last, an answer after a failure
            except (ValueError, TypeError, KeyError, RecursionError):
                if body is None:
                    raise DataError(
                        f"{self.path}: entry {number} is damaged; remove it with sqlite3, and its"
                        " question is asked again."
                    ) from None
        return found

    def look_up(
        self, asked: Mapping[str, Request], read: Callable[[str, Request], Reply]
    ) -> dict[str, Reply]:
        """`get_many` of `asked` (requests by key), after `read` has read every body that its
        process did not live to read."""
        rows = self._settled(
            asked, "body IS NOT NULL AND failed <> 1 AND (reply = '' OR NOT json_valid(reply))"
        )
        self.settle([(number, read(body or "", asked[key])) for number, key, _, body in rows])
        return self.get_many(asked)

    def tried(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that were asked once and failed for a reason that can pass."""
        return {key for _, key, _, _ in self._settled(keys, "failed = 1")}

    def _settled(
        self, keys: Iterable[str], condition: str
    ) -> list[tuple[int, str, str, str | None]]:
        wanted, rows = list(dict.fromkeys(keys)), []
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            sql = (
                f"SELECT id, key, reply, body FROM replies WHERE key IN ({marks}) AND {condition}"
                " ORDER BY failed DESC, id DESC"
            )
            rows += self._rows(sql, part)
        return rows  # type: ignore[return-value]

    def put_many(self, entries: Sequence[Entry]) -> list[int]:
        """Write `entries` in one transaction; they are on the disk on return. Their numbers, in
        order."""
        now = time.time()
        rows = [
            (
                e.key,
                json.dumps(asdict(e.request)),
                json.dumps(asdict(e.reply)) if e.reply else "",
                e.model,
                e.run,
                e.stage,
                now,
                _failed(e.reply),
                e.reply.cost_usd if e.reply else 0.0,
                e.body,
            )
            for e in entries
        ]

        def write() -> list[int]:
            for row in rows:
                if row[8]:
                    self._db.execute(_SPEND, (row[4], row[8]))
            return [int(self._db.execute(_INSERT, row).lastrowid or 0) for row in rows]

        return self._write(write)

    def settle(self, read: Sequence[tuple[int, Reply]]) -> None:
        """Write down how bodies read and what they cost; the bodies themselves are safe already."""

        def write() -> None:
            for number, reply in read:
                values = (json.dumps(asdict(reply)), _failed(reply), reply.cost_usd, number)
                self._db.execute(
                    "UPDATE replies SET reply = ?, failed = ?, cost_usd = ? WHERE id = ?", values
                )
                if reply.cost_usd:
                    run = self._db.execute(
                        "SELECT run FROM replies WHERE id = ?", (number,)
                    ).fetchone()[0]
                    self._db.execute(_SPEND, (run, reply.cost_usd))

        if read:
            self._write(write, durable=False)

    def answered(self, model: str) -> bool:
        """Whether `model` has ever answered a request."""
        return bool(
            self._rows("SELECT 1 FROM replies WHERE model = ? AND failed = 0 LIMIT 1", (model,))
        )

    def spent_usd(self, run: str) -> float:
        """What the replies that `run` asked for have cost, failed ones included."""
        return float((self._rows("SELECT usd FROM spent WHERE key = ?", (run,)) or [(0.0,)])[0][0])

    def reserve(
        self,
        answer_index: str,
        run: str,
        held_usd: float,
        most_usd: Sequence[float],
        *,
        limit_usd: float,
    ) -> tuple[int, float]:
        """(how many of the next requests, which may cost `most_usd`, fit into the run's limit, what
        other processes of it hold).

        The money of those is put aside for `answer_index` (hex digits, claimed) beside the
        `held_usd` that it holds already.
        """

        def write() -> tuple[int, float]:
            spent = self._db.execute(
                "SELECT COALESCE(SUM(usd), 0) FROM spent WHERE key = ?", (run,)
            ).fetchone()[0]
            others = dict(
                self._db.execute(
                    "SELECT key, usd FROM reserved WHERE run = ? AND key <> ?", (run, answer_index)
                ).fetchall()
            )
            # its process has ended
            for gone in [key for key in others if not self.claims.taken(key)]:
                self._db.execute("DELETE FROM reserved WHERE key = ?", (gone,))
                del others[gone]
            held = sum(others.values())
            count = affordable(most_usd, limit_usd - spent - held - held_usd)
            self._db.execute(
                "INSERT OR REPLACE INTO reserved VALUES (?, ?, ?)",
                (answer_index, run, held_usd + sum(most_usd[:count])),
            )
            return count, held

        return self._write(write, durable=False)

    def entries(self, *, stage: str | None = None) -> list[dict[str, Any]]:
        """Every entry (of a stage) in the order of writing, for people and for parsers that are run
        again. DataError for a damaged one."""
        where, values = ("WHERE stage = ?", (stage,)) if stage is not None else ("", ())
        rows = self._rows(
            f"SELECT key, request, reply, model, run, stage, time_s, body FROM replies {where}"
            " ORDER BY id",
            values,
        )
        names = ("key", "request", "reply", "model", "run", "stage", "time_s", "body")
        try:
            return [
                {
                    **dict(zip(names, row, strict=True)),
                    "request": json.loads(row[1]),
                    "reply": json.loads(row[2] or "{}"),
                }
                for row in rows
            ]
        except (ValueError, TypeError, RecursionError):
            raise DataError(
                f"{self.path}: a request or reply in it is no JSON; put back a copy, or mend it"
                " with sqlite3."
            ) from None

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._guard(
                lambda: self._patient(lambda: self._db.execute(sql, values).fetchall())
            )

    def close(self) -> None:
        """Close the file and give up all claims."""
        with self._lock:
            self._db.close()
            self.claims.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _failed(reply: Reply | None) -> int:
    if reply is None or reply.finish != "error":
        return _ANSWER
    return _FINAL if reply.failure in ("refused", "unreadable") else _ATTEMPT


def _reply(text: str) -> Reply:
    value = json.loads(text)
    return Reply(**{**value, "logprobs": tuple(value["logprobs"])})
