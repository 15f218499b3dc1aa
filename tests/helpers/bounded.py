"""Work on hostile input: it ends in a value or in one sentence, in time."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from bezoar.errors import BezoarError

SECONDS = 10


def sentence(work: Callable[[], Any]) -> str:
    """The sentence that the work ended in, "" where it ended well. AssertionError for a long time,
    or for what is no sentence; any other error goes through."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    started = time.process_time()
    try:
        work()
    except BezoarError as error:
        told = str(error)
        assert told.endswith((".", "?"))
        assert "\n" not in told
        assert len(told) < 2000
        return told
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - started < SECONDS
    return ""
