"""A training stage in a process of its own, which kills itself without warning: `killed.py MODEL
FOLDER KIND STEP OPTIMIZER`."""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.chat.templates import ChatML
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.progress import Progress
from bezoar.train.objectives import DPO, SFT
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train
from tests.helpers.rows import chats, noise, pairs


@dataclass
class Fatal(Progress):
    """Ends the process, or raises, when a step is logged."""

    at_step: int = -1
    how: str = "raise"
    losses: list[tuple[int, float]] = field(default_factory=list)

    def log(self, **values: Any) -> None:
        super().log(**values)
        if "loss" not in values:
            return
        self.losses.append((values["step"], values["loss"]))
        if values["step"] == self.at_step:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def stage(
    kind: str, model: Path, folder: Path, progress: Progress, **settings: Any
) -> dict[str, Any]:
    """A small stage with dropout, a validation split, several epochs and checkpoints."""
    rows: Any = pairs(14) if kind == "dpo" else noise(20) if kind == "noise" else chats(20)
    adapter = None if kind in ("full", "noise") else LoRA(r=4, dropout=0.1)
    objective = DPO() if kind == "dpo" else SFT()
    settings = {
        "lr": 1e-2,
        "epochs": 3,
        "batch_size": 4,
        "tokens_per_batch": 150,
        "checkpoint_every": 2,
        "eval_every": 2,
        **settings,
    }
    train = Train("base", "rows", objective, adapter, **settings)
    where = StageInputs(
        ModelSpec(str(model), dtype="float32"), [], ChatML(), folder / "work", folder / "out"
    )
    return train.fit(rows, where, progress=progress, seed=3)


if __name__ == "__main__":
    model, folder, kind, step, optimizer = sys.argv[1:]
    stage(
        kind,
        Path(model),
        Path(folder),
        Fatal("s", Path(folder) / "metrics.jsonl", at_step=int(step), how="kill"),
        optimizer=optimizer,
    )
