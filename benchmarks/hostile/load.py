"""Many requests in flight: seconds against the ideal, CPU a request, beside a bare aiohttp loop
against the same server.

    python benchmarks/hostile/load.py URL NUM CONCURRENCY    # the bare loop alone
"""

import asyncio
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from hostile.command import Row, place
from hostile.server import answered, asked_again, serving

AIM_WALL, AIM_CPU_MS = 1.15, 1.5


async def bare(url: str, num: int, concurrency: int) -> float:
    """The same bodies to the same server with nothing written down; seconds."""
    import aiohttp

    numbers = iter(range(num))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for number in numbers:
                prompt = (
                    f"Accept or Reject?\n[Instruction]\nAsk number {number}.\n\n[Response]\nReply"
                    f" to it, {number}.\n"
                )
                body = json.dumps(
                    {
                        "model": "m",
                        "messages": [{"role": "user", "content": prompt}],
                        "temperature": 0.0,
                        "max_tokens": 200,
                    }
                )
                async with session.post(url + "/chat/completions", data=body.encode()) as answer:
                    assert json.loads(await answer.read())["choices"]

        started = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return time.monotonic() - started


def reference(url: str, num: int, concurrency: int) -> tuple[float, float]:
    """(seconds, CPU ms a request) of the bare loop in a process of its own."""
    command = [sys.executable, __file__, url, str(num), str(concurrency)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
    )
    seconds, cpu_ms = json.loads(done.stdout)
    return seconds, cpu_ms


def many(num: int, concurrency: int, delay_s: float, *, judge_wall: bool) -> Row:
    """`num` requests that take `delay_s` each. Without `judge_wall` the seconds are told and not
    judged: the CPU bounds them."""
    ideal_s = math.ceil(num / concurrency) * delay_s
    with place() as folder, serving({"kind": "fine", "delay_s": [0, 0]}) as server:
        folder.rows(8)
        folder.filter(server, concurrency=concurrency)
        start_cpu_s = folder.run().cpu_s  # imports, recipe, report
    with place() as folder, serving({"kind": "fine", "delay_s": [delay_s, delay_s]}) as server:
        folder.rows(num)
        folder.filter(server, concurrency=concurrency, timeout_s=60)
        done = folder.run()
        log, status, server_cpu_s = server.log(), server.status(), server.cpu_s()
    with serving({"kind": "fine", "delay_s": [delay_s, delay_s]}) as server:
        bare_s, bare_cpu_ms = reference(server.url, num, concurrency)
    wall_s = max(written for times in log.values() for _, written, _ in times) - min(
        times[0][0] for times in log.values()
    )
    cpu_ms = (done.cpu_s - start_cpu_s) / num * 1000
    exact = done.code == 0 and answered(log) == num and not asked_again(log)
    ok = exact and cpu_ms <= AIM_CPU_MS and (not judge_wall or wall_s <= AIM_WALL * ideal_s)
    figures = {
        "num": num,
        "concurrency": concurrency,
        "delay_s": delay_s,
        "wall_s": round(wall_s, 2),
        "ideal_s": ideal_s,
        "cpu_ms_a_request": round(cpu_ms, 2),
        "most_in_flight": status["most_in_flight"],
        "bare_aiohttp_wall_s": round(bare_s, 2),
        "bare_aiohttp_cpu_ms_a_request": round(bare_cpu_ms, 2),
        "server_cpu_ms_a_request": round(server_cpu_s / num * 1000, 2),
        "most_mb": round(done.most_mb),
    }
    measured = (
        f"{wall_s:.1f} s, ideal {ideal_s:.1f} ({wall_s / ideal_s:.2f}); {cpu_ms:.2f} ms CPU a"
        f" request; bare aiohttp {bare_s:.1f} s, {bare_cpu_ms:.2f} ms; at most"
        f" {status['most_in_flight']} in flight"
    )
    aim = f"{AIM_WALL} of the ideal, " if judge_wall else ""
    return Row(
        f"{num:,} requests of {delay_s:g} s, {concurrency:,} in flight: {aim}{AIM_CPU_MS} ms CPU"
        " each, each answer kept",
        measured,
        ok,
        figures,
    )


def patient(num: int, delay_s: float, timeout_s: float) -> Row:
    """As many in flight as there are requests, on a healthy but slow server: waiting for a
    connection is not the server's time."""
    with place() as folder, serving({"kind": "fine", "delay_s": [delay_s, delay_s]}) as server:
        folder.rows(num)
        folder.filter(server, concurrency=num, timeout_s=timeout_s)
        done = folder.run()
        log = server.log()
    sent, kept = sum(map(len, log.values())), answered(log)
    return Row(
        f"{num:,} in flight, {delay_s:g} s each, timeout {timeout_s:g} s: no answer is thrown away",
        f"{sent} sent, {kept} answered, exit code {done.code}",
        done.code == 0 and sent == kept == num,
        {"sent": sent, "answered": kept, "seconds": round(done.seconds, 1)},
    )


def rows(quick: bool) -> Iterator[Row]:
    """The scenarios of this file."""
    yield many(1024 if quick else 5000, 512, 1.0, judge_wall=True)
    if not quick:
        yield many(20_480, 4096, 8.0, judge_wall=True)
        yield many(20_480, 4096, 1.0, judge_wall=False)
    yield patient(1000 if quick else 3000, 2.0 if quick else 6.0, 4.0 if quick else 10.0)


if __name__ == "__main__":
    before = resource.getrusage(resource.RUSAGE_SELF)
    took_s = asyncio.run(bare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    after = resource.getrusage(resource.RUSAGE_SELF)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([took_s, used_s / int(sys.argv[2]) * 1000]))
