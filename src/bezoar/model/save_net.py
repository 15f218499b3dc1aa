"""A network whose weights all trained as a model folder that other tools load."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_net(net: Any, state: dict[str, Tensor], dtype: torch.dtype, folder: Path) -> None:
    """Write the weights `state` of a network and its config in a precision, which may be another
    than that in which they train on. `state` changes."""
    copies = dict[int, Tensor]()
    for name, tensor in state.items():
        # once where tied: safetensors refuses to write what does not look so
        copy = copies.get(tensor.data_ptr())
        if copy is None:
            # not on the GPU
            copy = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        state[name] = copies[tensor.data_ptr()] = copy
    net.save_pretrained(folder, state_dict=state)
    net.config.dtype = dtype
    net.config.save_pretrained(folder)
