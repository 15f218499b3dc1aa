"""Two ranks against one process, over gloo: every objective's loss, gradient and evaluation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import TrainingError
from bezoar.train.objectives import OBJECTIVES
from bezoar.train.ranks import LostRankError, Ranks, is_lost


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def report(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "tests.helpers.rank_gradients", str(tiny_model), str(folder)]
    common = {**os.environ, **meet, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen(command, env={**common, "RANK": rank}) for rank in "01"]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_loss_and_gradient_are_those_of_one_process(report: dict[str, Any]) -> None:
    # names such as dpo-smooth are variants
    report = {name: parts for name, parts in report.items() if "baseline" in parts[1]}
    assert {name.partition("-")[0] for name in report} - {"slic"} == set(OBJECTIVES)
    for name, parts in report.items():
        assert len(parts) == 3, name
        for part in parts:
            one, two = part["loss"]
            assert two == pytest.approx(one, rel=1e-5), name
            assert part["error"] <= 1e-4 * part["grad"], name
        assert min(part["grad"] for part in parts[1:]) > 1e-6, name


def test_counts_metrics_and_the_baseline_are_of_all_ranks(report: dict[str, Any]) -> None:
    for name in OBJECTIVES:
        for part in report[name][1:]:
            one, two = part["counts"]
            assert two == pytest.approx(one, rel=1e-4, abs=1e-6), name
    for part in report["kto"][1:]:
        one, two = part["baseline"]
        assert one
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("name", ["ppo", "ppo-critic", "ppo-reinforce", "grpo", "rloo"])
def test_updates_are_those_of_one_process(report: dict[str, Any], name: str) -> None:
    """What is drawn, rewarded, whitened and learnt."""
    for part in report[name]:
        one, two = part["loss"]
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
        one, two = part["counts"]
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
        assert part["error"] <= 1e-4 * part["grad"]
    assert max(part["grad"] for part in report[name]) > 1e-4


def test_rows_are_dealt_by_tokens() -> None:
    sizes = [50, 10, 10, 10, 10, 30, 20]
    dealt = [Ranks(rank, 2).deal(range(7), sizes) for rank in range(2)]
    assert sorted(dealt[0] + dealt[1]) == list(range(7))
    assert [sum(sizes[i] for i in own) for own in dealt] == [70, 70]
    assert dealt == [sorted(own) for own in dealt]
    assert [Ranks(rank, 3).deal([4], [9]) for rank in range(3)] == [[4], [], []]
    assert Ranks().deal([3, 1, 2], [1, 1, 1]) == [3, 1, 2]


def test_a_sum_that_another_s_end_broke_is_told_from_other_errors() -> None:
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(TrainingError) as caught:
        raise TrainingError("rank 0") from broken
    assert is_lost(caught.value)
    assert is_lost(LostRankError("gone"))
    assert not is_lost(RuntimeError("shapes do not fit"))
