"""Two ranks against one process, over gloo: loss, gradient and evaluation. The fast tests take one
objective of each way that numbers are added up over ranks, the slow ones take all."""

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
from tests.helpers.rank_gradients import ALL, POLICIES

FEW = ["sft", "kto", "dpo-in parts", "dpo-base in parts", "rloo"]
"""Of copies of the weights; with a baseline of all ranks; of weights in parts, with a reference; of
an adapter on such a base; of answers drawn by all."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(FEW, id="few"),
        pytest.param([*ALL, *POLICIES], id="all", marks=pytest.mark.real),
    ],
)
def report(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "tests.helpers.rank_gradients", str(tiny_model), str(folder)]
    command += request.param
    common = {**os.environ, **meet, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen(command, env={**common, "RANK": rank}) for rank in "01"]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert list(found) == request.param
    return found


def test_every_objective_is_among_all() -> None:
    # names such as dpo-smooth are variants
    assert {name.partition("-")[0] for name in ALL} - {"slic"} == set(OBJECTIVES)


def test_loss_and_gradient_are_those_of_one_process(report: dict[str, Any]) -> None:
    for name in ALL.keys() & report:
        parts = report[name]
        assert len(parts) == 3, name
        for part in parts:
            one, two = part["loss"]
            assert two == pytest.approx(one, rel=1e-5), name
            assert part["error"] <= 1e-4 * part["grad"], name
        assert min(part["grad"] for part in parts[1:]) > 1e-6, name


def test_counts_metrics_and_the_baseline_are_of_all_ranks(report: dict[str, Any]) -> None:
    for name in ALL.keys() & report:
        for part in report[name][1:]:
            one, two = part["counts"]
            assert two == pytest.approx(one, rel=1e-4, abs=1e-6), name
    for part in report["kto"][1:]:
        one, two = part["baseline"]
        assert one
        assert two == pytest.approx(one, rel=1e-4)


def test_updates_are_those_of_one_process(report: dict[str, Any]) -> None:
    """What is drawn, rewarded, whitened and learnt."""
    for name in POLICIES.keys() & report:
        for part in report[name]:
            one, two = part["loss"]
            assert two == pytest.approx(one, rel=1e-4, abs=1e-6), name
            one, two = part["counts"]
            assert two == pytest.approx(one, rel=1e-3, abs=1e-5), name
            assert part["error"] <= 1e-4 * part["grad"], name
        assert max(part["grad"] for part in report[name]) > 1e-4, name


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
