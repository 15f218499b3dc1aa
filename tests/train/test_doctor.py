"""The doctor finds this machine well, and sees a fault where there is one."""

import math
from pathlib import Path

import pytest
import torch

from bezoar.io import read_json
from bezoar.model.fast_paths import FLEX, SWITCHED, usable
from bezoar.train import doctor
from bezoar.train.doctor import Check, _error, examine


def test_every_fast_path_is_right_here(cache_folder: Path) -> None:
    checks = examine("cpu")
    assert read_json(cache_folder / "doctor.json")["failed"] == []
    assert {c.name for c in checks} >= set(SWITCHED) - {FLEX}
    assert len(checks) >= 10
    assert [c.name for c in checks if not c.passed] == []
    assert sum(c.seconds for c in checks) < 60


def test_a_path_that_cannot_run_is_not_used(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nand a trace")

    monkeypatch.setattr(doctor, "attend", broken)
    [failed] = [check for check in examine("cpu") if not check.passed]
    assert (failed.name, failed.fault) == ("attention by segments", "no such kernel")
    assert not usable("attention by segments")


def test_a_fault_is_seen() -> None:
    assert not Check("x", "y", 0.0, 1e-3, 1e-4, 0.0).passed
    assert _error(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf
    assert _error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5
