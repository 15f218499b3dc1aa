"""Claims: which questions this process is asking just now, so that no other process asks them
too."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from bezoar.errors import DataError

_FLOCK = "hhqqi"
_BYTES = 1 << 62


class Claims:
    """One lock on one byte of the file `path` for each claimed name.

    Locks of an open file end with it, also when its process is killed, so no claim outlives its
    owner; and nothing is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, name: str) -> bool:
        """Claim `name` (hex digits); False when another process has it."""
        try:
            self._set(name, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise DataError(
                f"{self.path}: the file system gives no locks ({error.strerror}); keep runs on a"
                " disk that does."
            ) from None
        return True

    def release(self, name: str) -> None:
        """Give a claim back."""
        self._set(name, fcntl.F_UNLCK)

    def taken(self, name: str) -> bool:
        """Whether another process has claimed `name`."""
        packed = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, int(name, 16) % _BYTES, 1, 0)
        answer = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, packed)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._file)

    def _set(self, name: str, kind: int) -> None:
        # struct flock: type, whence, start, length, pid (which must be 0 for locks of an open file)
        fcntl.fcntl(
            self._file,
            fcntl.F_OFD_SETLK,
            struct.pack(_FLOCK, kind, os.SEEK_SET, int(name, 16) % _BYTES, 1, 0),
        )
