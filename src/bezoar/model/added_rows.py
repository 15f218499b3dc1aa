"""The embeddings of tokens that a recipe adds: placed in the net, and trained row by row.

n added tokens, T tokens, E hidden size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def place(net: Any, ids: Sequence[int]) -> None:
    """Give the net rows for `ids`, each the mean of all rows, growing its embeddings if needed.

    The mean bounds how far a new token moves the distribution over the others (J. Hewitt,
    Initializing New Word Embeddings for Pretrained Language Models, 2021).
    """
    num = int(net.get_input_embeddings().weight.shape[0])
    if max(ids) >= num:
        net.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    # also those in between, such as of a padding token that came later than the model
    new = sorted({*ids, *range(num, net.get_input_embeddings().weight.shape[0])})
    bias = net.get_output_embeddings().bias
    with torch.no_grad():
        for parameter in (*_embeddings(net).values(), *([] if bias is None else [bias])):
            parameter[new] = parameter[:num].mean(0, dtype=torch.float32).to(parameter.dtype)


def _embeddings(net: Any) -> dict[str, nn.Parameter]:
    """The embedding matrices [V, E] by the names of their modules: one if they are tied."""
    inputs, outputs = net.get_input_embeddings(), net.get_output_embeddings()
    modules = [inputs] if outputs.weight is inputs.weight else [inputs, outputs]
    names = {id(module): name for name, module in net.named_modules()}
    return {names[id(module)]: module.weight for module in modules}


class AddedRows:
    """The rows of added tokens: those of the stack below, frozen, and those of the top adapter.

    The rows in use stand in the net's own matrices, so that every reader finds them there; the
    others wait beside it. Gradients reach the top rows without one for a whole matrix.
    """

    def __init__(self, net: Any, ids: Sequence[int], device: torch.device) -> None:
        self.net, self.ids = net, list(ids)
        matrices = _embeddings(net).items()
        self.lower = {name: w[self.ids].to(device, torch.float32) for name, w in matrices}
        self.top: dict[str, nn.Parameter] = {}
        self.use_top = True
        # the net's weights were moved or trained before: written anew where a pass begins
        inputs = net.get_input_embeddings()
        self._hooks = [
            inputs.register_forward_pre_hook(lambda *_: self.write()),
            inputs.register_forward_hook(self._with_gradient),
        ]

    def set_lower(self, rows: Mapping[str, Tensor]) -> None:
        """Take the rows of an adapter that is frozen."""
        self.lower = {name: rows[name].to(below) for name, below in self.lower.items()}
        self.write()

    def add_top(self) -> dict[str, nn.Parameter]:
        """New rows that train, [n, E] in float32, as they are below."""
        self.top = {name: nn.Parameter(rows.clone()) for name, rows in self.lower.items()}
        return self.top

    def release(self) -> None:
        """Leave the rows to the net, all of whose weights train."""
        for hook in self._hooks:
            hook.remove()

    def rows(self) -> dict[str, Tensor]:
        """The rows in use by the names of their modules."""
        if not (self.top and self.use_top):
            return self.lower
        return {name: rows.detach() for name, rows in self.top.items()}

    @torch.no_grad()
    def write(self) -> None:
        """Put the rows in use into the net's matrices."""
        weights = _embeddings(self.net)
        for name, rows in self.rows().items():
            if isinstance(weights[name], DTensor):
                continue  # in parts: whole, and written, from where a pass begins
            # as data: a reference may be read between a forward pass and its backward pass, which
            # then finds its own rows again
            weights[name].data[self.ids] = rows.to(weights[name])

    def output(self) -> tuple[nn.Parameter, Tensor] | None:
        """The rows [n, E] of the output that train, and their ids [n]."""
        if not (self.top and self.use_top):
            return None
        rows = list(self.top.values())[-1]  # of tied embeddings the only ones
        return rows, torch.tensor(self.ids, device=rows.device)

    def _with_gradient(self, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """The embeddings [..., T, E] as they are, with a gradient for the top rows."""
        if not (self.top and self.use_top and torch.is_grad_enabled()):
            return out
        rows = next(iter(self.top.values()))
        ids = torch.tensor(self.ids, device=out.device)
        is_added = (inputs[0][..., None] == ids).to(out.dtype)  # [..., T, n]
        # zero in value; some models scale their embeddings
        change = (rows - rows.detach()).to(out.dtype)
        scale = getattr(module, "embed_scale", None)
        return out + is_added @ (change if scale is None else change * scale.to(out.dtype))
