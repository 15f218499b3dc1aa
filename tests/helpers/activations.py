"""What a forward pass keeps for the backward pass, in the kinds of training that there are."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bezoar.model.chunked_logprobs import logprobs
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.step import autocast

KINDS: dict[str, tuple[ModelSpec, LoRA | None]] = {
    "full": (ModelSpec(""), None),
    "full in float32": (ModelSpec("", dtype="float32"), None),
    "lora": (ModelSpec(""), LoRA(r=4)),
    "nf4": (ModelSpec("", "nf4"), LoRA(r=4)),
}


def deeper(model: Path, folder: Path, layers: int) -> Path:
    """The model with so many layers of random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model, folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(model, num_hidden_layers=layers)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def kept(stack: Stack, parameters: dict[str, Any]) -> tuple[int, list[Tensor]]:
    """Bytes of the activations that a forward pass keeps, and the gradients."""
    own = {p.untyped_storage().data_ptr() for p in stack.net.parameters()}
    sizes: dict[int, int] = {}

    def pack_tensor(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = pack([answer(list(range(60)), list(range(60, 120)))])
    torch.manual_seed(5)
    with saved_tensors_hooks(pack_tensor, lambda tensor: tensor):
        with autocast(stack):
            hidden = stack.hidden(batch)
        values = logprobs(hidden, stack.head_weight, batch.target)
    counted = sum(sizes.values())
    return counted, list(torch.autograd.grad(values.sum(), list(parameters.values())))
