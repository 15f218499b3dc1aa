"""The budget: what is spent is bounded by what is really sent and really answered."""

from collections.abc import Iterator
from typing import Any

from hostile.command import Row, ended, place
from hostile.server import answered, serving

USD_A_TOKEN = 0.01
PRICES = {"input_usd_per_million": 0.0, "output_usd_per_million": USD_A_TOKEN * 1e6}


def limited(
    what: str,
    limit_usd: float,
    tokens: int,
    concurrency: int,
    *,
    allowed: int,
    processes: int = 1,
    **backend: Any,
) -> Row:
    """A server that reports `tokens` for each answer, where a request allows `allowed`."""
    with (
        place() as folder,
        serving({"kind": "fine", "delay_s": [0.02, 0.1], "tokens": tokens}) as server,
    ):
        folder.rows(400)
        started = []
        for number in range(processes):
            # the same name and other questions: the processes share the budget and nothing else
            rubric = f"Judge {number}: Accept or Reject?\n{{record}}\n"
            (folder.path / "rubric.txt").write_text(rubric)
            folder.filter(
                server, budget_usd=limit_usd, prices=PRICES, concurrency=concurrency, **backend
            )
            started.append(folder.start("--out", f"runs/toy-{number}"))
            while (
                server.status()["count"] == 0
                or not (folder.path / f"runs/toy-{number}/metrics.jsonl").exists()
            ):
                if started[-1].poll() is not None:
                    break
        done = [ended(process) for process in started]
        log = server.log()
        spent_usd, journal_usd = answered(log) * tokens * USD_A_TOKEN, folder.spent_usd()
    in_flight_usd = concurrency * processes * tokens * USD_A_TOKEN
    overshoot = max(spent_usd - limit_usd, 0.0)
    most = 0.0 if tokens <= allowed else in_flight_usd
    ok = (
        overshoot <= most + 1e-6
        and abs(spent_usd - journal_usd) < 1e-6
        and all(e.code in (0, 3) for e in done)
        and spent_usd > limit_usd / 2
    )
    return Row(
        f"{what}: {limit_usd:g} USD are passed by no more than"
        f" {'nothing' if not most else f'what is in flight ({most:g} USD)'}",
        f"spent {spent_usd:.2f} USD in {answered(log)} answers, overshoot {overshoot:.2f}; exit"
        f" codes {[e.code for e in done]}",
        ok,
        {
            "limit_usd": limit_usd,
            "spent_usd": round(spent_usd, 4),
            "overshoot_usd": round(overshoot, 4),
            "in_flight_usd": in_flight_usd,
        },
    )


def refused_numbers() -> Row:
    """Money that is no finite number."""
    wrong = [
        {"budget_usd": float("nan")},
        {"budget_usd": float("inf")},
        {"budget_usd": -1.0},
        *(
            {"prices": {**PRICES, "output_usd_per_million": v}}
            for v in (float("nan"), float("inf"))
        ),
    ]
    held = 0
    for more in wrong:
        with place() as folder, serving({"kind": "fine"}) as server:
            folder.rows(3)
            folder.filter(server, **more)
            recipe = folder.path / "toy.yaml"
            recipe.write_text(recipe.read_text().replace("NaN", ".nan").replace("Infinity", ".inf"))
            done = folder.run()
            held += done.code == 2 and done.said.count("\n") <= 2 and server.status()["count"] == 0
    return Row(
        "a budget or price of .nan, .inf or less than 0 is refused",
        f"{held} of {len(wrong)}",
        held == len(wrong),
        {"refused": held, "of": len(wrong)},
    )


def rows(quick: bool) -> Iterator[Row]:
    """The scenarios of this file."""
    yield limited(
        "extra: {max_tokens: 400}, and all of them are used",
        100,
        400,
        16,
        allowed=400,
        extra={"max_tokens": 400},
    )
    yield limited("a server that reports ten times what was allowed", 100, 2000, 16, allowed=200)
    yield limited(
        "two processes of one recipe share its budget", 100, 200, 16, allowed=200, processes=2
    )
    yield refused_numbers()
