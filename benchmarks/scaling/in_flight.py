"""Many requests in flight: seconds against the ideal and CPU a request, beside other clients; and
what a server that fails in five ways costs."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile.command import Row
from hostile.server import Times, answered, asked_again, serving

CLIENTS = Path(__file__).parent / "clients.py"
AIM_WALL, AIM_CPU_MS = 1.15, 1.5
DELAY_S = 1.0


def client(name: str, url: str, num: int, concurrency: int, python: str) -> dict[str, Any] | None:
    """What a client took; None where it is not installed, or failed."""
    command = [python, str(CLIENTS), name, url, str(num), str(concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode == 4:
        return None
    if done.returncode and name == "bezoar":
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    if done.returncode:
        print(f"       {name} failed: {done.stderr.strip().splitlines()[-1][:300]}")
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def served_s(log: dict[str, Times]) -> float:
    """Seconds from the first request that came to the last answer that was written."""
    times = [each for attempts in log.values() for each in attempts]
    return max(written for _, written, _ in times) - min(seen for seen, _, _ in times)


def compared(num: int, concurrency: int, peers: str) -> Iterator[Row]:
    """`num` requests of a second each, by every client."""
    ideal_s = math.ceil(num / concurrency) * DELAY_S
    for name in ("bezoar", "aiohttp", "openai", "curator"):
        is_own = name == "bezoar"
        title = f"{num:,} requests of {DELAY_S:g} s, {concurrency} in flight, by {name}"
        with serving({"kind": "fine", "delay_s": [DELAY_S, DELAY_S]}) as server:
            pythons = dict.fromkeys((sys.executable, peers))
            tries = (client(name, server.url, num, concurrency, python) for python in pythons)
            took = next((took for took in tries if took), None)
            if took is None:
                print(f"       {name} is not installed, or failed: left out")
                continue
            log, most = server.log(), server.status()["most_in_flight"]
            server_cpu_s = server.cpu_s()
        cpu_ms, wall_s = took["cpu_s"] / num * 1000, served_s(log)
        whole = answered(log) == num and not asked_again(log)
        ok = whole and wall_s <= AIM_WALL * ideal_s and cpu_ms <= AIM_CPU_MS
        measured = (
            f"{wall_s:.2f} s at the server ({took['wall_s']:.2f} s for the client), ideal"
            f" {ideal_s:.0f} ({wall_s / ideal_s:.3f}); {cpu_ms:.2f} ms CPU a request; at most"
            f" {most} in flight; {answered(log)} answered, {len(asked_again(log))} asked again"
        )
        figures = {
            "client": name,
            "wall_s": round(wall_s, 3),
            "client_wall_s": round(took["wall_s"], 3),
            "ideal_s": ideal_s,
            "cpu_ms_a_request": round(cpu_ms, 3),
            "server_cpu_ms_a_request": round(server_cpu_s / num * 1000, 3),
            "most_in_flight": most,
        }
        aim = f": {AIM_WALL} of the ideal, {AIM_CPU_MS} ms CPU each" if is_own else ""
        yield Row(title + aim, measured, ok or not is_own, figures)


def stormy(num: int, concurrency: int) -> Row:
    """10 % 429, 5 % 500, 2 % dropped, 1 % truncated, 1 % hung."""
    plan = {"kind": "storm", "delay_s": [DELAY_S, DELAY_S], "size": 300}
    with serving(plan) as server:
        command = [sys.executable, str(CLIENTS), "bezoar", server.url, str(num), str(concurrency)]
        environment = {**os.environ, "TIMEOUT_S": "5"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        log = server.log()
    met: dict[str, int] = {}
    for attempts in log.values():
        for _, _, what in attempts:
            met[what] = met.get(what, 0) + 1
    again = len(asked_again(log))
    kept = num if done.returncode == 0 else 0
    ideal_s = math.ceil(sum(met.values()) / concurrency) * DELAY_S
    return Row(
        f"{num:,} requests, {concurrency} in flight, to a server with 10 % 429, 5 % 500, 2 % drops,"
        " 1 % truncated JSON, 1 % hung: nothing lost, nothing sent again that was answered",
        f"{kept} kept of {num}, {again} sent again after an answer; {served_s(log):.1f} s, "
        f"{sum(met.values())} attempts of 1 s would take {ideal_s:.0f}; "
        + ", ".join(f"{count} {what}" for what, count in sorted(met.items())),
        kept == num and again == 0,
        {"kept": kept, "sent_again": again, "met": met, "wall_s": round(served_s(log), 2)},
    )


def rows(quick: bool, peers: str) -> Iterator[Row]:
    """The scenarios of this file."""
    yield from compared(1024 if quick else 5000, 512, peers)
    yield stormy(1024 if quick else 5000, 512)
