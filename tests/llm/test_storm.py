"""A server that fails in five ways at once: 10 % 429, 5 % 500, 2 % drops, 1 % truncated JSON, 1 %
hung."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.progress import Progress
from tests.helpers.questions import questions
from tests.helpers.server import echo, serving

NUM = 400


def test_in_a_storm_nothing_is_lost_and_nothing_is_sent_again_that_was_answered(
    tmp_path: Path,
) -> None:
    met: Counter[str] = Counter()
    whole: set[str] = set()
    again: list[str] = []

    def storm(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str | None]:
        prompt = body["messages"][0]["content"]
        if prompt in whole:
            again.append(prompt)
        draw = random.Random(f"{prompt} {seen}").random()
        kinds = {0.10: "429", 0.15: "500", 0.17: "dropped", 0.18: "truncated", 0.19: "hung"}
        kind = next((kind for below, kind in kinds.items() if draw < below), "answered")
        met[kind] += 1
        if kind == "429":
            return 429, {"Retry-After": "0.02"} if draw < 0.05 else {}, "slow down"
        if kind == "500":
            return 500, {}, "oops"
        if kind == "dropped":
            return 200, {}, None
        if kind == "hung":
            time.sleep(3.0)
            return 200, {}, None
        answer = echo(body, seen)
        if kind == "truncated":
            return 200, {}, answer[2][:-40]
        whole.add(prompt)
        return answer

    with serving(storm) as server, Journal(tmp_path / "j.sqlite") as journal:
        how = {"concurrency": 32, "timeout_s": 2.5, "backoff_s": 0.02, "retries": 8}
        endpoint = Endpoint(server.url, "m", prices=Prices(1e6, 1e6), **how)
        budget = Budget(1e9, journal, run="r")
        replies = Pool(endpoint.open(), journal, budget, Progress()).ask_all(questions(NUM))
        # 15 tokens an answer by the server's count; a truncated one is charged by its characters
        truncated = [e for e in journal.entries() if e["reply"]["finish"] == "error"]
        extra = sum(e["reply"]["cost_usd"] for e in truncated)
        assert journal.spent_usd("r") == NUM * 15 + extra
        assert len(truncated) == met["truncated"]
    assert [reply.text for reply in replies] == [f"QUESTION {i}" for i in range(NUM)]
    assert not again
    assert met["answered"] == NUM
    assert min(met[kind] for kind in ("429", "500", "dropped", "truncated", "hung")) >= 1
