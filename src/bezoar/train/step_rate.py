"""How fast this device trains a model, measured by steps of one of its layers at full width."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bezoar.model.prompt_group import answer
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.stand_in import write_wide_layer
from bezoar.train.hardware import step_flops
from bezoar.train.label_check import Example
from bezoar.train.objectives.sft import SFT
from bezoar.train.step import TrainState, gradient

_LENGTH, _PROMPT = 512, 128
_MOST_TOKENS = {"cpu": 512, "cuda": 8192}
"""Of a step: with fewer a GPU is not busy, and a CPU needs no more."""


def layer_rate(
    values: dict[str, Any], spec: ModelSpec, adapter: LoRA | None, *, tokens: int, folder: Path
) -> float:
    """Operations a second of a step with micro-batches of `tokens`, on a model with the config
    `values` but for the number of its layers; it is written into `folder`."""
    write_wide_layer(values, spec, folder)
    stack = Stack(replace(spec, path=str(folder)))
    stack.add_adapter(adapter, seed=0)
    num = max(1, min(tokens, _MOST_TOKENS[stack.device.type]) // _LENGTH)
    row = [i % len(stack.head_weight) for i in range(_LENGTH + 1)]
    examples = [Example(str(i), answer(row[:_PROMPT], row[_PROMPT:])) for i in range(num)]
    state = TrainState(stack, SFT(), examples)
    rate = 0.0
    # the first step compiles kernels and fills caches: the second counts
    for step in range(2):
        started = time.monotonic()
        done = gradient(state, [list(range(num))], seed=0, step=step)
        if stack.device.type == "cuda":
            torch.cuda.synchronize()
        seconds, config = time.monotonic() - started, stack.net.config.to_dict()
        full = adapter is None
        rate = step_flops(config, tokens=done.tokens, trained=done.trained, full=full) / seconds
    return rate
