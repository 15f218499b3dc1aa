"""Runs a command until it ends or standard input closes, which the end of its starter does, however
that came: a server never outlives the run that started it. Imports nothing of the package.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

_STOP_S = 15.0
"""What the command gets to end by itself."""


def main() -> int:
    """Run the command in the arguments; its exit code."""
    # a session of its own: all that it starts ends with it
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_input, args=(process,), daemon=True).start()
    code = process.wait()
    _kill_all(process)
    return code if code >= 0 else 128 - code


def _end_with_input(process: "subprocess.Popen[bytes]") -> None:
    # not by sys.stdin, whose lock a thread would hold when the interpreter ends
    while os.read(0, 4096):
        pass
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    _kill_all(process)


def _kill_all(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
