"""A linear head that reads numbers off the last hidden states: a reward, attributes, a value.

N states, E hidden size, K outputs.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bezoar.errors import DataError
from bezoar.io import read_object, write_json
from bezoar.model.folder import named
from bezoar.model.tensors import load_tensors, save_tensors

_WEIGHTS, _CONFIG = "score_head.safetensors", "score_head.json"


class ScoreHead(nn.Module):
    """A linear layer with bias, in float32, whose outputs have names. Fresh weights are drawn with
    standard deviation 1 / sqrt(E + 1) (the reward model of DR-PO, arXiv 2404.08495), fresh biases
    are 0."""

    def __init__(self, outputs: tuple[str, ...], size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.outputs = outputs
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(
            torch.randn(len(outputs), size, generator=generator) * (size + 1) ** -0.5
        )
        self.bias = nn.Parameter(torch.zeros(len(outputs)))

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, E] -> [N, K]."""
        return linear(hidden.float(), self.weight, self.bias)

    def save(self, folder: Path) -> None:
        """Write the head beside an adapter or a model; durable on return."""
        save_tensors(folder / _WEIGHTS, dict(self.named_parameters()))
        write_json(folder / _CONFIG, {"outputs": self.outputs})


def load_head(folder: Path, *, size: int) -> ScoreHead | None:
    """The head in a folder, None where there is none. DataError when its two files do not belong
    together, or to hidden states of `size`."""
    if not (folder / _CONFIG).is_file() and not (folder / _WEIGHTS).exists():
        return None
    outputs = read_object(folder / _CONFIG).get("outputs")
    if (
        not isinstance(outputs, list)
        or not outputs
        or not all(isinstance(name, str) for name in outputs)
    ):
        raise DataError(
            f"{folder / _CONFIG}: its outputs are not a list of names; save the head again."
        )
    state = load_tensors(folder / _WEIGHTS)
    if state.keys() != {"weight", "bias"}:
        raise DataError(
            f"{folder / _WEIGHTS}: it holds {named(state) or 'nothing'} instead of weight and bias;"
            " save the head again."
        )
    shapes = [list(state["weight"].shape), list(state["bias"].shape)]
    if shapes != [[len(outputs), size], [len(outputs)]]:
        told = (
            f"{shapes[0]} and {shapes[1]}, and {_CONFIG} names {len(outputs)} outputs of hidden"
            f" states of {size} numbers"
        )
        raise DataError(f"{folder / _WEIGHTS}: weight and bias are {told}; save the head again.")
    head = ScoreHead(tuple(outputs), size)
    head.load_state_dict(state)
    return head.requires_grad_(False)
