"""What several processes share: one SQLite file, and locks on what each is asking just now."""

import errno
import fcntl
import os
import resource
import shutil
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from bezoar.errors import DataError

_VERSION = 2
_BUSY_S = 0.25
"""How long SQLite itself waits for another process, before Python handles a Ctrl-C."""
_TELL_S = 2.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS replies (id INTEGER PRIMARY KEY, key TEXT NOT NULL,"
    " request TEXT NOT NULL, reply TEXT NOT NULL, model TEXT NOT NULL, run TEXT NOT NULL,"
    " stage TEXT NOT NULL, time_s REAL NOT NULL, failed INTEGER NOT NULL, cost_usd REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS replies_by_key ON replies (key, failed)",
    "CREATE INDEX IF NOT EXISTS replies_by_run ON replies (run, cost_usd)",
    # since version 2; a body is as the server sent it, NULL if the model ran in this process
    "ALTER TABLE replies ADD COLUMN body TEXT",
    "CREATE TABLE spent (key TEXT PRIMARY KEY, usd REAL NOT NULL)",  # by run; pruned: RUN\nSTAGE
    # by process
    "CREATE TABLE reserved (key TEXT PRIMARY KEY, run TEXT NOT NULL, usd REAL NOT NULL)",
    "INSERT INTO spent SELECT run, SUM(cost_usd) FROM replies GROUP BY run",
    f"PRAGMA user_version = {_VERSION}",
)
ResultT = TypeVar("ResultT")
_FLOCK = "hhqqi"
_BYTES = 1 << 62


class JournalFile:
    """The SQLite file `path`, created if absent, readable by its owner only.

    While another process holds the file a write waits as long as it takes; `say` hears of it.
    DataError if it is no journal or cannot be read; OSError (ENOSPC) if the disk is full.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self.path, self._say = path, say
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._durable = True
        self._db = self._guard(self._open)
        self.claims = Claims(path.with_name(path.name + ".claims"))

    def _open(self) -> sqlite3.Connection:
        # 1) The file is made here, not by SQLite, so that nobody else can read it for a moment.
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            stat = self.path.stat()
            if stat.st_mode & 0o077 and stat.st_uid == os.getuid():
                self.path.chmod(0o600)
        except OSError as error:
            what = f"the journal cannot be opened ({error.strerror})"
            raise DataError(f"{self.path}: {what}; check the file and its folder.") from None
        # `_write` makes the transactions, and `_lock` keeps threads apart
        settings: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
        db: sqlite3.Connection = sqlite3.connect(self.path, timeout=_BUSY_S, **settings)
        try:
            self._patient(lambda: db.execute("PRAGMA journal_mode = WAL"))
            db.execute("PRAGMA synchronous = FULL")
            # 2) A newer journal is left alone; most are of this version and need no lock.
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                what = f"the journal has version {version}, this bezoar reads {_VERSION}"
                raise DataError(f"{self.path}: {what}; update bezoar or move the file away.")
            # 3) Under the lock the version is asked again: another process may have been faster.
            if version < _VERSION:
                self._patient(lambda: db.execute("BEGIN IMMEDIATE"))
                version = db.execute("PRAGMA user_version").fetchone()[0]
                for statement in _SCHEMA if version < _VERSION else ():
                    db.execute(statement)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _guard(self, action: Callable[[], ResultT]) -> ResultT:
        """Do `action`; SQLite's errors become one sentence."""
        try:
            return action()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            is_io = code == sqlite3.SQLITE_IOERR
            # a full disk is an I/O error too where SQLite maps its index into memory
            is_full = is_io and shutil.disk_usage(self.path.parent).free < 1 << 16
            if code == sqlite3.SQLITE_FULL or is_full:
                raise OSError(errno.ENOSPC, "no space left on the disk", str(self.path)) from error
            if is_io and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
                what = "the limit on file sizes (`ulimit -f`) is reached"
                raise OSError(errno.EFBIG, what, str(self.path)) from error
            fix = "check the file and its folder, or move it away"
            raise DataError(f"{self.path}: the journal cannot be used ({error}); {fix}.") from error

    def _patient(self, action: Callable[[], ResultT]) -> ResultT:
        """Do `action` as soon as no other process holds the file."""
        started, say = time.monotonic(), self._say
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            if say is not None and time.monotonic() - started > _TELL_S:
                what = "another process holds the journal; nothing new is asked until it lets go"
                say(f"{self.path}: {what}")
                say = None

    def _write(self, action: Callable[[], ResultT], *, durable: bool = True) -> ResultT:
        """Do `action` in one transaction; if `durable`, it is on the disk on return."""

        def write() -> ResultT:
            # 1) Outside of a transaction, where alone SQLite takes the setting.
            if durable != self._durable:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            # 2) The write lock is taken at once: a transaction that reads first and writes later
            #    would fail if another process wrote in between.
            self._patient(lambda: self._db.execute("BEGIN IMMEDIATE"))
            # 3) All or nothing: money and reply are one fact.
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

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        read = partial(self._patient, lambda: self._db.execute(sql, values).fetchall())
        with self._lock:
            return self._guard(read)

    def change(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Carry out one statement for a table of one's own; it is on the disk on return."""
        self._write(lambda: self._db.execute(sql, values))

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._rows(sql, values)

    def close(self) -> None:
        """Close the file and give up all claims."""
        with self._lock:
            self._db.close()
            self.claims.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Claims:
    """Locks, one byte of the file `path` a name: a process claims the requests that it is asking,
    so that no other asks them too. They end with their process, also a killed one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, name: str) -> bool:
        """Claim `name` (hex digits); False when another process has it."""
        try:
            self._control(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, name)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            what = f"the file system gives no locks ({error.strerror})"
            raise DataError(f"{self.path}: {what}; keep runs on a disk that does.") from None
        return True

    def release(self, name: str) -> None:
        """Give back the claim of `name`."""
        self._control(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, name)

    def taken(self, name: str) -> bool:
        """Whether another process has claimed `name`."""
        lock = self._control(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, name)
        return bool(struct.unpack(_FLOCK, lock)[0] != fcntl.F_UNLCK)

    def anyone(self) -> bool:
        """Whether another process has claimed anything."""
        # a length of 0 reaches to the end of all names
        flock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        lock = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, flock)
        return bool(struct.unpack(_FLOCK, lock)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._file)

    def _control(self, command: int, kind: int, name: str) -> bytes:
        # struct flock: type, whence, start, length, pid (which must be 0 for locks of an open file)
        flock = struct.pack(_FLOCK, kind, os.SEEK_SET, int(name, 16) % _BYTES, 1, 0)
        return fcntl.fcntl(self._file, command, flock)
