"""Fast paths that `bezoar doctor` found to be wrong on this machine are not used by later runs.

A finding holds for one processor, one version of torch and one of this package: anything new is
trusted until it is examined. Imports no torch at import time.
"""

import platform
from functools import cache
from pathlib import Path

from bezoar import __version__
from bezoar.errors import DataError, TrainingError
from bezoar.io import cache_dir, content_hash, read_own, set_aside, write_json

FLEX = "compiled flex attention"
# paths with a slow fallback (the last one is for CUDA only); any other that fails stops training
SWITCHED = (
    "packing",
    "shared prompts",
    "fused layers",
    "attention by segments",
    "recomputed activations",
    FLEX,
)
# those that only trainings of all weights use
ALL_WEIGHTS = ("all weights", "all weights, recomputed", "all weights in bfloat16")


def usable(path: str) -> bool:
    """Whether a fast path may be used here."""
    return path not in _failed(_file())


def refuse_broken(stage: str, *, all_weights: bool = False) -> None:
    """TrainingError if a path without a fallback failed here that the training of an adapter, or
    with `all_weights` of all, would use."""
    if broken := sorted(_failed(_file()) - {*SWITCHED, *(() if all_weights else ALL_WEIGHTS)}):
        fault = f"`bezoar doctor` found wrong results here ({', '.join(broken)})"
        raise TrainingError(f"stage {stage}: {fault}; train on another machine.")


def note(failed: list[str]) -> None:
    """Record which paths failed here; earlier findings are forgotten."""
    write_json(_file(), {"machine": _machine(), "failed": failed})
    _failed.cache_clear()


@cache
def _failed(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    try:
        findings = read_own(file, machine=str, failed=list[str])
    except DataError as error:
        set_aside(file, error)
        return frozenset()
    return frozenset(findings["failed"] if findings["machine"] == _machine() else ())


def _file() -> Path:
    return cache_dir() / "doctor.json"


@cache
def _machine() -> str:
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    cpu = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return content_hash(cpu, platform.machine(), gpu, torch.__version__, __version__)
