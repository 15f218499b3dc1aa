"""Work in parts on a CPU's cores, each part on threads of its own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch


def side_by_side(parts: Sequence[Iterator[None]]) -> None:
    """Take the steps of every part to the end; torch's threads are shared out evenly.

    An error in one part, or an interrupt, ends all of them after the step that they are at.
    """
    threads, stop = torch.get_num_threads(), Event()

    def run(part: Iterator[None]) -> None:
        torch.set_num_threads(max(1, threads // len(parts)))
        try:
            for _ in part:
                if stop.is_set():
                    return
        except BaseException:
            stop.set()
            raise

    if len(parts) < 2:
        for part in parts:
            for _ in part:
                pass
        return
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            running = [pool.submit(run, part) for part in parts]
            try:
                for each in running:
                    each.result()
            except BaseException:
                stop.set()
                raise
    finally:
        # what a part sets is also the default of threads that start later
        torch.set_num_threads(threads)
