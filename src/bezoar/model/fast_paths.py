"""Fast paths that `bezoar doctor` found to be wrong on this machine are not used by any later run.
Imports no torch of its own.

The finding holds for one processor, one version of torch and one of this package: anything new is
trusted until it is examined.
"""

import platform
from functools import cache
from pathlib import Path

from bezoar import __version__
from bezoar.errors import DataError, TrainingError
from bezoar.io import cache_dir, content_hash, read_own, set_aside, write_json

FLEX = "compiled flex attention"
SWITCHED = (
    "packing",
    "shared prompts",
    "fused layers",
    "attention by segments",
    "recomputed activations",
    FLEX,
)
"""The paths that have a slow one in their place; the last is used with CUDA alone. The others have
none: where they fail, this machine should not train."""


def usable(path: str) -> bool:
    """Whether a fast path may be used here."""
    return path not in _failed(_file())


def refuse_broken(stage: str) -> None:
    """TrainingError where a path failed here that has no slow one in its place."""
    if broken := sorted(_failed(_file()) - set(SWITCHED)):
        raise TrainingError(
            f"stage {stage}: `bezoar doctor` found wrong results here ({', '.join(broken)}); train"
            " on another machine."
        )


def note(failed: list[str]) -> None:
    """Write down which paths failed here, in place of what was found before."""
    write_json(_file(), {"machine": _machine(), "failed": failed})
    _failed.cache_clear()


@cache
def _failed(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    try:
        found = read_own(file, machine=str, failed=list[str])
    except DataError as error:
        set_aside(file, error)
        return frozenset()
    return frozenset(found["failed"]) if found["machine"] == _machine() else frozenset()


def _file() -> Path:
    return cache_dir() / "doctor.json"


@cache
def _machine() -> str:
    import torch

    info = Path("/proc/cpuinfo")
    names = (
        {line for line in info.read_text().splitlines() if line.startswith(("model name", "flags"))}
        if info.is_file()
        else set()
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return content_hash(sorted(names), platform.machine(), gpu, torch.__version__, __version__)
