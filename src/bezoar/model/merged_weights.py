"""Weights as decoding wants them: adapters merged, 4 bits unpacked, laid out for the CPU's matrix
kernels.

Inside `dense(stack)` every linear layer of the decoder computes with one dense weight, W + sum of
adapters, summed in float32 and rounded once to the precision of the model: a step then costs what
it costs the base model. Outside, the layers are as before. In float32 the sums differ from the
unmerged stack's by rounding alone; in bfloat16 by one rounding of the weight, as large as those of
the computation itself. Scoring never uses these weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bezoar.model.linear import StackedLinear, linear_names

Multiply = Callable[[Tensor], Tensor]


class Network(Protocol):
    """What decoding needs of a stack."""

    net: Any
    device: torch.device

    @property
    def tokenizer(self) -> Any: ...

    @property
    def head_weight(self) -> Tensor: ...

    def backbone(
        self, input_ids: Tensor, position_ids: Tensor, layout: Any, read: Tensor | None = None
    ) -> Tensor: ...


@contextmanager
def merged_weights(stack: Network) -> Iterator[Multiply]:
    """Make the stack's linear layers dense; yields the product with its output embedding, [n, E] ->
    logits [n, V] in float32."""
    layers = [module for _, module in linear_names(stack.net, "all-linear")]
    try:
        for layer in layers:
            layer.forward = _product(_weight(layer), layer.bias)  # type: ignore[method-assign, arg-type]
        head = _product(stack.head_weight.detach(), None)
        yield lambda hidden: head(hidden).float()
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _weight(layer: nn.Module) -> Tensor:
    if isinstance(layer, StackedLinear):
        plain = layer.matrix()
        adapters = [*layer.lower, *([layer.top] if layer.top is not None and layer.use_top else [])]
        merged = plain.float() if adapters else plain
        for adapter in adapters:
            merged = merged + adapter.scale * (adapter.up.detach() @ adapter.down.detach())
        return merged.to(plain.dtype)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach()


def _product(weight: Tensor, bias: Tensor | None) -> Multiply:
    """x [..., I] -> [..., O]. On a CPU in bfloat16 the weight is laid out once for the kernel,
    which halves the time of a step."""
    kernels: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and kernels:
        ops = torch.ops.mkldnn
        laid_out = ops._reorder_linear_weight(weight)
        return lambda x: ops._linear_pointwise(x, laid_out, bias, "none", [], "")  # type: ignore[no-any-return]
    return lambda x: linear(x, weight, bias)
