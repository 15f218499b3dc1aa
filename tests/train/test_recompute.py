"""Recomputation keeps a fraction of the activations, whatever trains, and changes no gradient."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bezoar.model.chunked_logprobs import logprobs
from bezoar.model.layer import recompute
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


@pytest.fixture(scope="module")
def deep_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 6 layers of random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("deep") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model, num_hidden_layers=6)
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


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fourth_at_most_is_kept(kind: str, mode: bool, deep_model: Path) -> None:
    spec, lora = KINDS[kind]
    stack = Stack(ModelSpec(str(deep_model), spec.quantize, spec.dtype))
    parameters = stack.add_adapter(lora, seed=0)
    stack.net.train(mode)
    whole, gradients = kept(stack, parameters)
    assert recompute(stack.net)
    less, again = kept(stack, parameters)
    assert whole >= 4 * less
    assert all(map(torch.equal, gradients, again))
    recompute(stack.net, on=False)
    assert kept(stack, parameters)[0] == whole
