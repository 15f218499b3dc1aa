"""The training benchmark runs our side on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_our_side_runs() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "training.py"),
        "--model",
        "tiny",
        "--pairs",
        "9",
        "--only",
        "ours",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ours")]
    assert [line.split()[:2] for line in lines] == [["ours", "dpo"], ["ours", "sft"]]
    assert lines[0].split("losses ")[1].startswith("0.6931 ")


@pytest.mark.real
def test_the_gpu_benchmark_runs_our_side_anywhere() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "training_gpu.py"),
        "--sizes",
        "tiny",
        "--steps",
        "1",
        "--only",
        "ours",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = dict(line.split(": ", 1) for line in done.stdout.strip().splitlines())
    assert sorted(lines) == [
        "tiny dpo nf4 ours",
        "tiny dpo none ours",
        "tiny sft nf4 ours",
        "tiny sft none ours",
    ]
    for line in lines.values():
        assert json.loads(line)["tokens_per_s"] > 0
