"""A linear head that reads numbers off the last hidden states: a reward, attributes, a value.

N states, E hidden size, K outputs.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bezoar.errors import DataError
from bezoar.io import read_object, write_json
from bezoar.model.resolve import some_of
from bezoar.model.tensors import load_tensors, save_tensors

_WEIGHTS, _CONFIG = "score_head.safetensors", "score_head.json"


class ScoreHead(nn.Module):
    """A linear layer with bias, in float32, whose outputs have names."""

    def __init__(self, outputs: tuple[str, ...], size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.outputs = outputs
        # standard deviation 1 / sqrt(E + 1), as in DR-PO (arXiv 2404.08495)
        weight = torch.randn(len(outputs), size, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight * (size + 1) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(len(outputs)))

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, E] -> [N, K]."""
        return linear(hidden.float(), self.weight, self.bias)

    def save(self, folder: Path) -> None:
        """Write the head beside an adapter or a model; durable on return."""
        save_tensors(folder / _WEIGHTS, dict(self.named_parameters()))
        write_json(folder / _CONFIG, {"outputs": self.outputs})


def load_head(folder: Path, *, size: int) -> ScoreHead | None:
    """The head in a folder, if any. DataError if its files do not fit each other or `size`."""
    config, weights = folder / _CONFIG, folder / _WEIGHTS
    if not config.is_file() and not weights.exists():
        return None
    outputs = read_object(config).get("outputs")
    if not (isinstance(outputs, list) and outputs and all(isinstance(o, str) for o in outputs)):
        raise DataError(f"{config}: its outputs are not a list of names; save the head again.")
    # torch would name a parameter of ours here; users know the files
    state = load_tensors(weights)
    if state.keys() != {"weight", "bias"}:
        names = some_of(state) or "nothing"
        raise DataError(f"{weights}: it holds {names}, not weight and bias; save the head again.")
    weight, bias = list(state["weight"].shape), list(state["bias"].shape)
    if [weight, bias] != [[len(outputs), size], [len(outputs)]]:
        fault = f"weight {weight} and bias {bias} do not fit"
        shape = f"{_CONFIG} names {len(outputs)} outputs, the model has {size} hidden numbers"
        raise DataError(f"{weights}: {fault}: {shape}; save the head again.")
    head = ScoreHead(tuple(outputs), size)
    head.load_state_dict(state)
    return head.requires_grad_(False)
