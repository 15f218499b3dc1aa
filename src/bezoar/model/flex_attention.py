"""Attention over the segments of a flat row on CUDA: one FlexAttention kernel with a block mask.

H query heads, G key/value heads, T tokens of the row, D head size.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bezoar.model.segments import Segment

Sees = Callable[[Any, Any, Tensor, Tensor], Tensor]


def sees(segments: tuple[Segment, ...], device: torch.device) -> Sees:
    """Whether query position q sees key position k: its own segment's past, and its trunk."""
    answer_index, start, end = (torch.zeros(segments[-1].end, dtype=torch.int32) for _ in range(3))
    for number, (a, b, c, d) in enumerate(segments):
        answer_index[a:b], start[a:b], end[a:b] = number, c, d
    answer_index, start, end = answer_index.to(device), start.to(device), end.to(device)

    def mask(_batch: Any, _head: Any, q: Tensor, k: Tensor) -> Tensor:
        return ((answer_index[q] == answer_index[k]) & (k <= q)) | ((k >= start[q]) & (k < end[q]))

    return mask


def block_mask(segments: tuple[Segment, ...], device: torch.device) -> Any:
    """The block mask of a row, for all layers and heads."""
    from torch.nn.attention.flex_attention import create_block_mask

    size = segments[-1].end
    return create_block_mask(sees(segments, device), None, None, size, size, device=str(device))


@cache
def _kernel() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float | None) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    out: Tensor = _kernel()(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
    return out
