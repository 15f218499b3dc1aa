"""Recomputation keeps a fraction of the activations, whatever trains, and changes no gradient."""

from pathlib import Path

import pytest
import torch

from bezoar.model.layer import recompute
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from tests.helpers.activations import KINDS, deeper, kept


@pytest.fixture(scope="module")
def deep_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deeper(tiny_model, tmp_path_factory.mktemp("deep") / "model", 6)


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
