"""One of several ranks that works out every objective's steps and evaluation, and then alone:
`rank_gradients.py MODEL FOLDER`, with RANK, WORLD_SIZE and MASTER_ADDR and _PORT set."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bezoar.chat.templates import ChatML
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.label_check import check_labels
from bezoar.train.objectives.bradley_terry import BradleyTerry
from bezoar.train.objectives.regression import Regression
from bezoar.train.ranks import Ranks
from bezoar.train.settings import StageInputs, TrainSettings
from bezoar.train.step import TrainState
from bezoar.train.supervised_trainer import SupervisedTrainer
from tests.helpers.rows import labelled, pairs
from tests.train.test_equality import CASES

ALL: dict[str, tuple[Any, Any]] = {
    **CASES,
    "bradley_terry": (BradleyTerry(), pairs(8)),
    "regression": (Regression(("helpfulness", "verbosity")), labelled(8)),
}


def worked_out(
    objective: Any, rows: Any, model: Path, folder: Path, ranks: Ranks, lora: LoRA | None
) -> list[dict[str, Any]]:
    """Of a step of five rows, of one row (which leaves a rank without any), and of an evaluation:
    loss, metrics, baseline and gradient."""
    stack = Stack(ModelSpec(str(model), dtype="float32"))
    outputs = objective.outputs if "scores" in objective.needs else ()
    named = stack.add_adapter(lora, seed=1, outputs=outputs)
    torch.manual_seed(2)
    for name, parameter in named.items():
        if lora or name.startswith("score_head"):
            parameter.data.normal_(0, 0.1)
    check = {"max_length": 500, "too_long": "drop"}
    items = check_labels(rows, objective, ChatML(), stack.tokenizer, **check).rows
    settings = TrainSettings("b", "r", objective, lora, batch_size=5, tokens_per_batch=60)
    inputs = StageInputs(stack.spec, [], ChatML(), folder, folder)
    state = TrainState(stack, objective, items)
    trainer = SupervisedTrainer(settings, inputs, Progress("s"), 3, named, state, ranks=ranks)
    trainer.optimizer = torch.optim.SGD(named.values())
    trainer.prepare()
    found: list[dict[str, Any]] = [{"loss": trainer.state.evaluations[0][1], "grads": {}}]
    for step in range(trainer.num_steps):
        trainer.state.step = step
        totals = trainer.gradient(trainer.rows_of(step))
        ranks.add_gradients(named.values())
        baseline = None if state.baseline is None else float(state.baseline)
        grads = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        counts = {"tokens": totals.tokens, "units": totals.units, **totals.metrics}
        found.append({"loss": totals.loss, "baseline": baseline, "grads": grads, "counts": counts})
        for parameter in named.values():
            parameter.grad = None
    return found


def main(model: Path, folder: Path) -> None:
    """Write, for the first rank, how far each objective's numbers are from those of one process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, report = Ranks.here(), {}
    for name, (objective, rows) in ALL.items():
        lora = LoRA(r=4, alpha=8, dropout=0.0)
        two = worked_out(objective, rows, model, folder / f"{name}-two", ranks, lora)
        if ranks.first:
            one = worked_out(objective, rows, model, folder / f"{name}-one", Ranks(), lora)
            report[name] = [_apart(a, b) for a, b in zip(one, two, strict=True)]
    if ranks.first:
        (folder / "report.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def _apart(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Both numbers of each kind, the largest entry of the gradient and the largest error of one."""
    grads, others = one.pop("grads"), two.pop("grads")
    assert grads.keys() == others.keys()
    errors = [float((grad - others[name]).abs().max()) for name, grad in grads.items()]
    largest = max((float(grad.abs().max()) for grad in grads.values()), default=0.0)
    both = {name: (value, two[name]) for name, value in one.items()}
    return {**both, "grad": largest, "error": max(errors, default=0.0)}


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
