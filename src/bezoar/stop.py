"""Being told to stop: Ctrl-C, SIGTERM and a closed terminal all raise KeyboardInterrupt.

The first one lets the work end in order (requests in flight are waited for and kept), a second one
ends the process.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 130
TOLD = "bezoar: stopped; run the same command to go on.\n"
_AGAIN, _AGAIN_S = signal.SIGUSR1, 0.02
_TELL_S = 2.0
_SHOW_CURSOR = "\x1b[?25h"
_asked, _told = threading.Event(), threading.Event()
# whether Ctrl-C is for a block of `within`, and whether the thread has heard that one
_inner, _heard = threading.Event(), threading.Event()
_listening = False


def stopped() -> bool:
    """True once we were told to stop."""
    return _asked.is_set()


def listen() -> None:
    """Take the signals over for the life of the process; an ignored one (nohup) stays ignored."""
    global _listening
    _asked.clear()
    _told.clear()
    if _listening or threading.current_thread() is not threading.main_thread():
        return
    _listening = True
    # 1) A thread says that we stop, and ends the process at the second signal: the main one may be
    #    waiting for a lock or a long computation, which no handler interrupts. It comes before the
    #    handlers, since it must hear of every signal that they take.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    # 2) The handlers raise KeyboardInterrupt in the main thread, or once more if Python drops it.
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.signal(_AGAIN, _interrupt_again)
    sys.unraisablehook = _unraisable
    # 3) A forked process is not ours to end in order.
    os.register_at_fork(after_in_child=_reset)


def leave() -> NoReturn:
    """End the stopped process, once the thread, which Python would end first, has said so."""
    _told.wait(_TELL_S)
    _end()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _asked.is_set():
        _asked.set()
        raise KeyboardInterrupt


def _interrupt_again(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    """Raise an interrupt again, a moment later, that Python dropped as one of a callback."""
    if isinstance(args.exc_value, KeyboardInterrupt):
        threading.Timer(_AGAIN_S, os.kill, [os.getpid(), _AGAIN]).start()
    else:
        sys.__unraisablehook__(args)


def _watch(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number not in SIGNALS:
                continue
            if number == signal.SIGINT and _inner.is_set():
                _heard.set()
                continue
            if _told.is_set():
                _end()
            _write(2, ("\n" if os.isatty(2) else "") + TOLD)
            _told.set()


def _end() -> NoReturn:
    # `os._exit` runs no clean-up, which may hang; children would live on and hold the device
    from multiprocessing import active_children

    for child in active_children():
        child.kill()
    _write(1, _SHOW_CURSOR if os.isatty(1) else "")
    os._exit(EXIT_CODE)


def _write(handle: int, text: str) -> None:
    with suppress(OSError):
        os.write(handle, text.encode())


def _reset() -> None:
    """In a forked process: a signal is for itself only, and ends it."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def unbroken() -> Iterator[None]:
    """Hold interrupts back until the block has ended; then the first is raised."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[Callable[[], object]] = []
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, _AGAIN)}
    for number, handler in handlers.items():
        # neither a number (SIG_IGN, SIG_DFL) nor None, which was not set from Python
        if callable(handler):
            hold = lambda *args, handler=handler: held.append(lambda: handler(*args))  # noqa: E731
            signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
    if held:
        held[0]()


@contextmanager
def within() -> Iterator[None]:
    """Let Ctrl-C end the block and nothing else; SIGTERM and a closed terminal stop as ever."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not _interrupt:
        yield
        return
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    _heard.clear()
    _inner.set()
    signal.signal(signal.SIGINT, press)
    try:
        yield
    except KeyboardInterrupt:
        # other signals, and a reader that leaves, end more than this
        if stopped() or not pressed.is_set():
            raise
    finally:
        signal.signal(signal.SIGINT, _interrupt)
        # else the thread would say that we stop, and end the process at the next one
        if pressed.is_set():
            _heard.wait(_TELL_S)
        _inner.clear()
