"""What a process used of this machine: its peak of memory, and the share of the arithmetic."""

import ctypes
import gc
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bezoar.train.layer_shapes import Config, layer_shapes
from bezoar.train.memory import llama_like

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Dense bfloat16 operations a second by a part of the device's name, from the data sheets."""


def peak_memory() -> int:
    """The most bytes held at once so far: of CUDA's allocator, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    file = Path("/proc/self/status")
    for line in file.read_text().splitlines() if file.is_file() else []:
        # not getrusage: a process inherits the peak of the one that started it
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short."""
    by_type = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return by_type or "can't allocate memory" in str(error)  # torch's allocator on a CPU


def fresh_peak() -> None:
    """Give free memory back to the system and count the peak anew, without what ran before."""
    gc.collect()
    # freed pages below one that is in use stay with the process until its heap is told
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if malloc_trim is not None:
        malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def step_flops(config: Config, *, tokens: int, trained: int, full: bool) -> float:
    """Operations of the products with a model's weights, forward and backward.

    Two a weight and token forward, two more for the gradient of the input and, if all weights train
    (`full`), two for that of the weight. Adapters and attention are left out, so a share of the
    peak made with it is a lower bound.
    """
    sizes = [num_in * num_out for num_in, num_out in layer_shapes(config).values()]
    layers: int = config["num_hidden_layers"] * sum(sizes)
    head: int = config["vocab_size"] * config["hidden_size"]
    return (6.0 if full else 4.0) * (tokens * layers + trained * head)


def work(config: Config, *, tokens: int, trained: int, full: bool, ranks: int) -> dict[str, Any]:
    """The device and the operations that it did, by which `bezoar plan` tells how long another
    stage takes; empty for an architecture that is not known."""
    if not llama_like(config):
        return {}
    device = f"{ranks} ranks of {device_name()}" if ranks > 1 else device_name()
    return {
        "device": device,
        "flops": step_flops(config, tokens=tokens, trained=trained, full=full),
    }


def mfu(config: Config, seconds: float, *, ranks: int, **counts: Any) -> dict[str, float]:
    """The share of the GPUs' arithmetic that a step used; empty if it is not known."""
    peak = peak_flops()
    if peak is None or not llama_like(config):
        return {}
    return {"mfu": round(step_flops(config, **counts) / seconds / peak / ranks, 4)}


def device_name() -> str:
    """What a measured rate holds for."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def matmul_flops(seconds: float = 0.3) -> float:
    """Operations a second of a large matrix product in bfloat16, measured for so long."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    left = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    float((left @ left)[0, 0])
    started, num = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        # reading a value waits for the device
        float((left @ left)[0, 0])
        num += 1
    return 2.0 * size**3 * num / (time.monotonic() - started)


def peak_flops() -> float | None:
    """Operations a second that the CUDA device is sold with, if it is known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    # the first part that fits: a longer name comes before the one that it contains
    return next((peak for part, peak in PEAKS.items() if part in name), None)
