"""What a training stage leaves behind: the weights, the rows that were dropped, the statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from bezoar.chat.types import Dropped, count_reasons
from bezoar.io import write_json, write_jsonl
from bezoar.model.stack import Stack
from bezoar.train.checkpoint import TrainerState
from bezoar.train.hardware import peak_memory


def write_result(
    out: Path,
    stack: Stack,
    state: TrainerState,
    *,
    rows: int,
    dropped: Sequence[Dropped],
    named: Mapping[str, nn.Parameter],
    cpu_s: float,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the trained weights, failures.jsonl and stats.json into `out`; returns the statistics,
    with those of the method in `more`."""
    out.mkdir(parents=True, exist_ok=True)
    stack.save_trained(out)
    write_jsonl(out / "failures.jsonl", [asdict(d) for d in dropped])
    stats = {
        "rows_in": rows + len(dropped),
        "rows_out": rows,
        "dropped": count_reasons(dropped),
        "steps": state.step,
        "first_loss": state.first_loss,
        "last_loss": state.last_loss,
        "tokens": state.tokens,
        "trained_tokens": state.trained_tokens,
        "training_s": round(state.seconds, 3),
        "cpu_s": round(cpu_s, 3),
        "peak_memory_bytes": peak_memory(),
        "parameters_trained": sum(p.numel() for p in named.values()),
        **more,
    }
    write_json(out / "stats.json", stats)
    return stats
