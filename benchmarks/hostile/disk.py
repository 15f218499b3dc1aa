"""The journal: held by another process, on a full disk, at a limit of file sizes, and shared by two
runs."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator

from hostile.command import COMMAND, Place, Row, ended, place
from hostile.server import Server, answered, asked_again, serving

CONCURRENCY = 16
SIZE = 3000  # characters of an answer, so that a small disk is soon full


def held(seconds: float) -> Row:
    """Another process holds the journal's write lock."""
    with place() as folder, serving({"kind": "fine", "delay_s": [0.02, 0.06]}) as server:
        folder.rows(600)
        folder.filter(server, concurrency=CONCURRENCY)
        process = folder.start()
        while server.status()["count"] < 100:
            time.sleep(0.005)
        other = sqlite3.connect(folder.journal(), isolation_level=None, timeout=60)
        other.execute("BEGIN IMMEDIATE")
        began, before = time.monotonic(), server.status()["count"]
        time.sleep(seconds)
        meanwhile = server.status()["count"] - before
        other.execute("ROLLBACK")
        other.close()
        done, log = ended(process), server.log()
        long = time.monotonic() - began
    again = len(asked_again(log))
    ok = done.code == 0 and meanwhile <= CONCURRENCY and not again and len(log) == 600
    return Row(
        f"a write lock is held for {seconds:g} s: no more is sent than was in flight"
        f" ({CONCURRENCY}), and nothing is lost",
        f"{meanwhile} sent meanwhile; {answered(log)} answered, {again} asked again, exit code"
        f" {done.code}",
        ok,
        {"sent_meanwhile": meanwhile, "asked_again": again, "seconds": round(long, 1)},
    )


def file_limit() -> Row:
    """No file may grow past a megabyte."""
    with (
        place() as folder,
        serving({"kind": "fine", "delay_s": [0.02, 0.06], "size": SIZE}) as server,
    ):
        folder.rows(600)
        folder.filter(server, concurrency=CONCURRENCY)
        first = folder.run(file_limit=1 << 20)
        asked = server.status()["count"]
        then = folder.run()
        log = server.log()
    return _lost(
        "no file may grow past 1 MiB (RLIMIT_FSIZE)",
        log_again=len(asked_again(log)),
        asked=asked,
        codes=(first.code, then.code),
        said=first.said,
    )


def full_disk() -> Row | None:
    """The run lies on a file system of 2 MiB that is made larger afterwards; None where none can be
    mounted."""
    unshare = shutil.which("unshare")
    probe = [unshare or "false", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    if not unshare or subprocess.run(probe, capture_output=True).returncode:
        return None
    with (
        place() as folder,
        serving({"kind": "fine", "delay_s": [0.02, 0.06], "size": SIZE}) as server,
    ):
        folder.rows(600)
        folder.filter(server, concurrency=CONCURRENCY)
        (folder.path / "runs").mkdir()
        run = " ".join(f"'{word}'" for word in [*COMMAND, "toy.yaml"])
        script = (
            f"mount -t tmpfs -o size=2m tmpfs runs && {{ {run}; echo code $?; mount -o"
            f" remount,size=200m runs; {run}; echo code $?; }}"
        )
        done = subprocess.run(
            [unshare, "-rm", "sh", "-c", script],
            cwd=folder.path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        log = server.log()
    said = done.stdout + done.stderr
    codes = [int(line.split()[1]) for line in said.splitlines() if line.startswith("code ")]
    return _lost(
        "the disk is full (2 MiB)",
        log_again=len(asked_again(log)),
        asked=answered(log),
        codes=(codes[0], codes[1]),
        said=said,
    )


def _lost(what: str, *, log_again: int, asked: int, codes: tuple[int, int], said: str) -> Row:
    ok = 0 <= log_again <= CONCURRENCY and codes == (2, 0) and "Traceback" not in said
    return Row(
        f"{what}: one sentence; at most what was in flight ({CONCURRENCY}) is asked again once"
        " there is room",
        f"{log_again} asked again after {asked} answers; exit code {codes[0]}, then {codes[1]}",
        ok,
        {"asked_again": log_again, "answers": asked},
    )


def two_at_once() -> Row:
    """Two runs beside each other ask the same questions at the same time."""
    with place() as folder, serving({"kind": "fine", "delay_s": [0.05, 0.3]}) as server:
        folder.rows(400)
        processes = []
        for name in ("toy", "other"):
            folder.filter(server, name=name, concurrency=CONCURRENCY)
            processes.append(folder.start())
            _wait(folder, server, name)
        done = [ended(process) for process in processes]
        log = server.log()
        equal = (
            len({path.read_bytes() for path in folder.path.glob("runs/*/02-kept/rows.parquet")})
            == 1
        )
    counts = sorted({len(times) for times in log.values()})
    ok = [e.code for e in done] == [0, 0] and counts == [1] and equal and len(log) == 400
    return Row(
        "two processes ask the same 400 questions at once: each is bought once, both have the same"
        " rows",
        f"asked {sum(map(len, log.values()))} times, most for one question {counts[-1]}; rows"
        f" {'equal' if equal else 'DIFFER'}",
        ok,
        {"questions": len(log), "asked": sum(map(len, log.values()))},
    )


def _wait(folder: Place, server: Server, name: str) -> None:
    """Until a run has read its recipe, so that the file may be written again."""
    while not (folder.path / "runs" / name / "recipe.yaml").exists():
        time.sleep(0.005)


def rows(quick: bool) -> Iterator[Row]:
    """The scenarios of this file."""
    yield held(2.0 if quick else 6.0)
    yield file_limit()
    row = full_disk()
    if row is not None:
        yield row
    yield two_at_once()
