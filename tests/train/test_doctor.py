"""The doctor finds this machine well, and sees a fault where there is one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.errors import TrainingError
from bezoar.io import read_json
from bezoar.model import layer
from bezoar.model.fast_paths import ALL_WEIGHTS, FLEX, SWITCHED, note, refuse_broken, usable
from bezoar.train import doctor
from bezoar.train.doctor import Check, _error, examine


def test_every_fast_path_is_right_here(cache_folder: Path) -> None:
    checks = examine("cpu")
    assert read_json(cache_folder / "doctor.json")["failed"] == []
    assert {c.name for c in checks} >= set(SWITCHED) - {FLEX}
    assert {c.name for c in checks} >= {*ALL_WEIGHTS, "4 bits recomputed", "fused optimizer"}
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


def test_a_fault_of_full_training_stops_no_other(cache_folder: Path) -> None:
    note([ALL_WEIGHTS[0]])
    refuse_broken("sft")
    with pytest.raises(TrainingError, match=r"stage sft: .*\(all weights\)"):
        refuse_broken("sft", all_weights=True)


@pytest.mark.parametrize("broken", ["swiglu", "rms_norm"])
def test_a_wrong_gradient_of_a_fused_step_is_found(
    broken: str, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the fault is called, everything together is compared with independent code."""
    right = getattr(layer, broken)

    def wrong(x: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        out: torch.Tensor = right(x, *args, **keywords)
        # right forward, and a gradient that is a hundredth too long
        return out + 0.01 * (x - x.detach()).sum()

    monkeypatch.setattr(layer, broken, wrong)
    assert doctor.ALL in [check.name for check in examine("cpu") if not check.passed]


def test_a_fault_is_seen() -> None:
    assert not Check("x", "y", 0.0, 1e-3, 1e-4, 0.0).passed
    assert _error(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf
    assert _error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5
