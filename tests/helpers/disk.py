"""What reaches the disk, and in which order."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

State = tuple[int, int, tuple[str, ...]]
Event = tuple[str, str, dict[str, State]]
_LISTENERS: list[list[Event]] = []


def _state(path: Path) -> State:
    """What a file or folder holds, by its number, its time of change and its names."""
    stat = path.stat()
    return (
        stat.st_ino,
        0 if path.is_dir() else stat.st_mtime_ns,
        tuple(sorted(os.listdir(path))) if path.is_dir() else (),
    )


def _tree(path: Path) -> dict[str, State]:
    return {str(p.relative_to(path)): _state(p) for p in (path, *path.rglob("*"))}


def _heard(event: str, args: tuple[object, ...]) -> None:
    # raised by the interpreter for every rename and replace, before it is done
    if event == "os.rename":
        for listener in _LISTENERS:
            source, target = os.fspath(args[0]), os.fspath(args[1])  # type: ignore[call-overload]
            listener.append((f"rename {source}", target, _tree(Path(source))))


sys.addaudithook(_heard)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """Every fsync, with the state of what it wrote down, and every rename, in their order."""
    events: list[Event] = []
    true_fsync = os.fsync

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        events.append(("fsync", path, {path: _state(Path(path))}))
        true_fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        _LISTENERS.append(events)
        yield events
        _LISTENERS.remove(events)


def durable(events: list[Event]) -> set[State]:
    return {state for what, _, states in events if what == "fsync" for state in states.values()}


def the_rename(events: list[Event], target: Path) -> int:
    return next(
        i
        for i, (what, path, _) in enumerate(events)
        if what.startswith("rename") and path == str(target)
    )
