"""One of several ranks that works out the steps and evaluation of objectives, and then alone:
`rank_gradients.py MODEL FOLDER NAME...`, with RANK, WORLD_SIZE and MASTER_ADDR and _PORT set."""

import json
import os
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bezoar.chat.templates import ChatML
from bezoar.model.shard import whole
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.label_check import check_labels
from bezoar.train.objectives import DPO, KTO, SFT
from bezoar.train.objectives.bradley_terry import BradleyTerry
from bezoar.train.objectives.regression import Regression
from bezoar.train.ranks import Ranks
from bezoar.train.rewards.model import ModelReward
from bezoar.train.rloo import RLOO
from bezoar.train.settings import StageInputs, TrainSettings
from bezoar.train.step import TrainState
from bezoar.train.supervised_trainer import SupervisedTrainer
from tests.helpers.rows import chats, labelled, pairs
from tests.train import test_grpo, test_ppo
from tests.train.test_equality import CASES

ALL: dict[str, tuple[Any, Any]] = {
    **CASES,
    "sft-in parts": (SFT(), chats(8)),
    "dpo-in parts": (DPO(beta=0.3), pairs(8)),
    "bradley_terry-in parts": (BradleyTerry(), pairs(8)),
    "sft-base in parts": (SFT(), chats(8)),
    "dpo-base in parts": (DPO(beta=0.3), pairs(8)),
    "kto-base in parts": (KTO(beta=0.2), pairs(8)),
    "bradley_terry-base in parts": (BradleyTerry(), pairs(8)),
    "bradley_terry": (BradleyTerry(), pairs(8)),
    "regression": (Regression(("helpfulness", "verbosity")), labelled(8)),
}
LONG: Any = {"advantage": "leave_one_out", "max_tokens": 60, "updates": 2}
POLICIES: dict[str, tuple[Any, Any]] = {
    "ppo": (replace(test_ppo.SMALL, minibatches=2, reset=0.5, normalise="std"), test_ppo.ROWS),
    "ppo-critic": (replace(test_ppo.SMALL, critic="reward", updates=1), test_ppo.ROWS),
    "ppo-reinforce": (replace(test_ppo.SMALL, **LONG, samples=2, batch_size=8), test_ppo.ROWS),
    "grpo": (replace(test_grpo.EASY, minibatches=2, dynamic_sampling=1), test_grpo.ROWS),
    "rloo": (
        RLOO(
            model="m",
            rows="rows",
            rewards=(test_grpo.Digits(), ModelReward("judge")),
            samples=4,
            batch_size=4,
            adapter=test_grpo.EASY.adapter,
            max_tokens=60,
            dynamic_sampling=3,
            updates=1,
        ),
        test_grpo.ROWS,
    ),
}
"""One group of answers alone, in `rloo`, leaves a rank without any."""


def worked_out(name: str, model: Path, folder: Path, ranks: Ranks) -> list[dict[str, Any]]:
    """Of a step of five rows, of one row (which leaves a rank without any), and of an evaluation:
    loss, metrics, baseline and gradient."""
    (objective, rows), parts = ALL[name], name.endswith("in parts") and ranks.size > 1
    lora = None if name.endswith("-in parts") else LoRA(r=4, alpha=8, dropout=0.0)
    stack = Stack(ModelSpec(str(model), dtype="float32"), mapped=parts)
    outputs = objective.outputs if "scores" in objective.needs else ()
    named = stack.add_adapter(lora, seed=1, outputs=outputs)
    torch.manual_seed(2)
    for name, parameter in named.items():
        if lora or name.startswith("score_head"):
            parameter.data.normal_(0, 0.1)
    if parts:
        named = stack.shard()
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
        grads = {name: whole(p.grad).clone() for name, p in named.items() if p.grad is not None}
        counts = {"tokens": totals.tokens, "units": totals.units, **totals.metrics}
        found.append({"loss": totals.loss, "baseline": baseline, "grads": grads, "counts": counts})
        for parameter in named.values():
            parameter.grad = None
    return found


def updated(stage: Any, rows: Any, model: Path, folder: Path, reward: Any) -> list[dict[str, Any]]:
    """Of every update: what is logged; of every optimizer step, the gradient."""
    grads: list[dict[str, torch.Tensor]] = []

    def watch(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        grads.append({str(i): p.grad.clone() for i, p in enumerate(parameters)})

    hook = register_optimizer_step_pre_hook(watch)
    spec, metrics = ModelSpec(str(model), dtype="float32"), folder / "metrics.jsonl"
    folder.mkdir(exist_ok=True)
    inputs = StageInputs(spec, [], ChatML(), folder / "work", folder / "out", reward)
    progress = Progress("s", metrics) if Ranks.here().first else Progress("s")
    stage.fit(rows, inputs, progress=progress, seed=7)
    hook.remove()
    lines = (
        [json.loads(line) for line in metrics.read_text().splitlines()]
        if Ranks.here().first
        else []
    )
    for line, name in product(lines, ("time_s", "seconds", "stage")):
        line.pop(name)
    steps = [{"loss": 0.0, "counts": {}, "grads": grad} for grad in grads]
    return steps + [{"loss": line.pop("loss"), "counts": line, "grads": {}} for line in lines]


def reward_model(model: Path, folder: Path) -> Any:
    """A fixed random one, on an adapter of its own."""
    with Ranks.here().first_alone():
        if Ranks.here().first:
            stack = Stack(ModelSpec(str(model), dtype="float32"))
            stack.add_adapter(LoRA(r=2), seed=5, outputs=("reward",))
            stack.save_trained(folder)
    return ModelSpec(str(model), dtype="float32"), [folder / "adapter"]


def main(model: Path, folder: Path, names: list[str]) -> None:
    """Write, for the first rank, how far each objective's numbers are from those of one process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, report = Ranks.here(), {}
    policies = {name: POLICIES[name] for name in names if name in POLICIES}
    for name in (n for n in names if n in ALL):
        two = worked_out(name, model, folder / f"{name}-two", ranks)
        if ranks.first:
            one = worked_out(name, model, folder / f"{name}-one", Ranks())
            report[name] = [_apart(a, b) for a, b in zip(one, two, strict=True)]
    reward = reward_model(model, folder)
    for name, (stage, rows) in policies.items():
        two = updated(stage, rows, model, folder / f"{name}-two", reward)
        report[name] = two
    dist.destroy_process_group()
    if ranks.first:
        for name, (stage, rows) in policies.items():
            one = updated(stage, rows, model, folder / f"{name}-one", reward)
            report[name] = [_apart(a, b) for a, b in zip(one, report[name], strict=True)]
        (folder / "report.json").write_text(json.dumps(report))


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
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
