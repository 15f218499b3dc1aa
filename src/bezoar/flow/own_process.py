"""Work in a process of its own, forked from one that has loaded the libraries and used none of
them: its memory, its device and its death are its own."""

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bezoar.errors import BezoarError
from bezoar.io import failure

_PACKAGE = str(Path(__file__).parents[1])


class Done(NamedTuple):
    """What came of some work: its result, or what is wrong; `killed` if its process was."""

    result: str = ""
    fault: str = ""
    killed: bool = False


def in_own_process(work: Callable[[], str], environment: dict[str, str]) -> Done:
    """Do some work with this environment; what libraries print is not shown."""
    # fork, for the libraries are loaded and the work is a closure; CUDA is not initialised here
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(work, environment, sender))
    process.start()
    sender.close()
    try:
        return Done(*json.loads(receiver.recv_bytes()))
    except EOFError:
        return Done(fault="its process was killed, most often for want of memory.", killed=True)
    finally:
        process.kill()
        process.join()


def _do(work: Callable[[], str], environment: dict[str, str], sender: Connection) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.environ.update(environment)
    try:
        done = Done(work())
    except BaseException as error:
        done = Done(fault=sentence(error))
    sender.send_bytes(json.dumps(done).encode())


def sentence(error: BaseException) -> str:
    """What is wrong; of an error that nobody foresaw, where in the package it arose."""
    if isinstance(error, BezoarError | OSError):
        return failure(error) if isinstance(error, OSError) else str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    last = (own or frames)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
