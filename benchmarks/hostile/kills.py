"""Runs that are killed or stopped at random moments, against a server that fails in every way."""

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hostile.command import Place, Row, ended, place
from hostile.server import Server, Times, answered, asked_again, serving

STORM = {"kind": "storm", "delay_s": [0.05, 0.4], "size": 300}
ENDPOINT = {"concurrency": 24, "timeout_s": 3.0, "retries": 8, "backoff_s": 0.05}
LATE_S = 0.05
"""What came in so many seconds before a SIGKILL may be lost."""


@dataclass(frozen=True)
class Stop:
    """A signal: when it was sent, and when the process had ended."""

    sent: float
    gone: float


def prepare(folder: Place, server: Server, num: int) -> None:
    """A teacher is asked `num` times, then a judge about each answer."""
    folder.tasks(num)
    folder.scheme(server, num, **ENDPOINT)


def finish(folder: Place) -> int:
    """Run the command until it has nothing to say against; how often it was run."""
    for count in range(1, 6):
        done = folder.run()
        if done.code == 0:
            return count
        if done.code != 3:
            raise SystemExit(f"exit code {done.code}\n{done.said}")
    raise SystemExit(f"five runs did not finish\n{done.said}")


def stop_at_random(
    folder: Place, server: Server, number: signal.Signals, draw: random.Random, most: int
) -> Stop | None:
    """Start the command and send it `number` once it has asked up to `most` requests; None where it
    ended before."""
    process, before = folder.start(), server.status()["count"]
    goal = before + draw.randrange(most)
    while process.poll() is None and server.status()["count"] < goal:
        time.sleep(0.01)
    time.sleep(draw.uniform(0.0, 0.1))
    if process.poll() is not None:
        process.communicate()
        return None
    sent = time.monotonic()
    process.send_signal(number)
    done = ended(process)
    # the interpreter that has hardly started knows of no signals yet
    killed = number == signal.SIGKILL or server.status()["count"] == before
    if done.code not in (-number if killed else 130, 0) or "Traceback" in done.said:
        raise SystemExit(f"{number.name}: exit code {done.code}\n{done.said}")
    return Stop(sent, time.monotonic())


def ages(log: dict[str, Times], stops: list[Stop]) -> list[float]:
    """For each answer that was asked for again: how long before the kill it was written out; 0 and
    less is after it, inf where no kill explains it."""
    found = []
    for asked, written, again in asked_again(log):
        # a busy server may write to a process that is gone before it hears of that
        near = [stop for stop in stops if asked < stop.gone and stop.sent < again]
        found.append(min((stop.sent - written for stop in near), default=float("inf")))
    return found


def unbroken(num: int) -> tuple[dict[str, str], Row]:
    """The hashes of the rows that a run without a kill gives."""
    with place() as folder, serving(STORM) as server:
        prepare(folder, server, num)
        runs = finish(folder)
        log, digest = server.log(), folder.digest()
    met: dict[str, int] = {}
    for times in log.values():
        for _, _, what in times:
            met[what] = met.get(what, 0) + 1
    again = len(asked_again(log))
    promise = (
        f"{len(log):,} requests under 10 % 429, 5 % 500, 2 % drops, 1 % truncated JSON, 1 % hung:"
        " the run ends, no answer is asked for again"
    )
    measured = (
        f"{', '.join(f'{count} {what}' for what, count in sorted(met.items()))}; {runs} run(s);"
        f" {again} asked again"
    )
    return digest, Row(
        promise, measured, again == 0, {"met": met, "runs": runs, "asked_again": again}
    )


def broken(number: signal.Signals, num: int, stops: int, whole: dict[str, str], seed: int) -> Row:
    """The same, stopped `stops` times."""
    draw, sent = random.Random(seed), list[Stop]()
    with place() as folder, serving(STORM) as server:
        prepare(folder, server, num)
        while len(sent) < stops:
            stop = stop_at_random(folder, server, number, draw, 2 * int(1.5 * num / stops))
            if stop is None:
                break
            sent.append(stop)
        finish(folder)
        log, same = server.log(), folder.digest() == whole
    late = ages(log, sent)
    wire, worst = sum(age <= 0 for age in late), max((age for age in late if age > 0), default=0.0)
    ok = (
        same and len(sent) == stops and (not late or (number == signal.SIGKILL and worst <= LATE_S))
    )
    allowed = (
        f"at most what was on the wire or came in the last {LATE_S * 1000:.0f} ms"
        if number == signal.SIGKILL
        else "none"
    )
    measured = (
        f"rows {'equal' if same else 'DIFFER'}; {answered(log)} answers, {len(late)} asked again"
        + (
            f" ({wire} on the wire, {len(late) - wire} written out before the kill, at most"
            f" {worst * 1000:.1f} ms)"
            if late
            else ""
        )
    )
    return Row(
        f"the same with {stops} {number.name}s: rows byte for byte those of an unbroken run;"
        f" answered requests that are asked again: {allowed}",
        measured,
        ok,
        {
            "stops": len(sent),
            "rows_equal": same,
            "answers": answered(log),
            "asked_again": len(late),
            "on_the_wire": wire,
            "oldest_ms": round(worst * 1000, 1),
        },
    )


def rows(quick: bool) -> Iterator[Row]:
    """The scenarios of this file."""
    num, stops = (100, 2) if quick else (500, 10)
    whole, row = unbroken(num)
    yield row
    for seed, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        yield broken(number, num, stops, whole, seed)
