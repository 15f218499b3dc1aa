"""Attention: registered with transformers as "bezoar", and computed over segments of a packed row.

H query heads, G key/value heads, T tokens of the row, D head size.

A completion attends to its own past and to its prompt, which lies elsewhere in the row: see
`fused_attention`, and `limited_attention` for sliding windows and capped scores. On CUDA one
FlexAttention kernel does all of it. No mask tensor over the row is ever built.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from bezoar.errors import TrainingError
from bezoar.model.fused_attention import attend_fused, grouped
from bezoar.model.limited_attention import PLAIN, Rule, attend_limited, capped

NAME = "bezoar"


class Layout(Protocol):
    """Who sees whom: `net(input_ids, position_ids, layout=layout)` hands it to every layer."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule = PLAIN
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, G, T, D] -> attended values [B, H, T, D]."""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if any(options.get(name) is not None for name in ("s_aux", "position_bias")):
        name = type(module).__name__
        fault = f"the attention of {name} biases or sinks its scores"
        raise TrainingError(f"{fault}, which bezoar does not compute; take another model.")
    layer: Any = module.layer_idx
    out = layout.attend(layer, query, key, value, Rule(scaling, sliding_window, softcap))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


class Segment(NamedTuple):
    """Tokens start..end see their own past and prompt_start..prompt_end (empty for none)."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int

    @property
    def length(self) -> int:
        """Positions of the sequence that ends here, its prompt included."""
        return self.end - self.start + self.prompt_end - self.prompt_start


Segments = tuple[Segment, ...]


def attend(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule = PLAIN
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
    # under autocast rotated queries and keys are float32
    query, key = query.to(value.dtype), key.to(value.dtype)
    if not rule.limits(max(segment.length for segment in segments)):
        return attend_fused(query, key, value, segments, rule.scaling(query))
    q = grouped(query, key.shape[1])  # [G, n, T, D]
    parts = []
    for start, end, prompt_start, prompt_end in segments:
        # the prompt's keys in front of the segment's own: one causal pattern
        keys, values = (
            torch.cat((x[0, :, prompt_start:prompt_end], x[0, :, start:end]), 1)
            for x in (key, value)
        )
        parts.append(attend_limited(q[:, :, start:end], keys, values, rule))
    return torch.cat(parts, 2).flatten(0, 1)[None]


def attend_dense(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule = PLAIN
) -> Tensor:
    """The slow reference of `attend`: a mask over the whole row, gradients by autograd."""
    size, repeats = query.shape[2], query.shape[1] // key.shape[1]
    mask = torch.zeros(size, size, dtype=torch.bool, device=query.device)
    for start, end, prompt_start, prompt_end in segments:
        places = [*range(prompt_start, prompt_end), *range(start, end)]
        for position, row in enumerate(places):
            if row >= start:
                first = rule.first(position)
                mask[row, places[first : position + 1]] = True
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scores = query.to(value.dtype) @ key.to(value.dtype).transpose(2, 3) * rule.scaling(query)
    return capped(scores, rule.softcap).masked_fill(~mask, float("-inf")).softmax(-1) @ value


def attend_flex(query: Tensor, key: Tensor, value: Tensor, mask: Any, rule: Rule = PLAIN) -> Tensor:
    """The same on CUDA, with a mask made by `block_mask`."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    options = {"block_mask": mask, "scale": rule.scale, "enable_gqa": True}
    out: Tensor = _flex_kernel()(query, key, value, _cap_scores(rule.softcap), **options)
    return out


def block_mask(segments: Segments, device: torch.device, window: int | None = None) -> Any:
    """FlexAttention's block mask of a row, for all layers and heads with one window."""
    from torch.nn.attention.flex_attention import create_block_mask

    size, rule = segments[-1].end, sees(segments, device, window)
    return create_block_mask(rule, None, None, size, size, device=str(device))


def sees(
    segments: Segments, device: torch.device, window: int | None = None
) -> Callable[[Any, Any, Tensor, Tensor], Tensor]:
    """Whether query position q sees key position k: its own segment's past, and its prompt."""
    size = segments[-1].end
    # [T] each: the number of a token's segment, where its prompt starts and ends, its position
    segment, start, end, place = (torch.zeros(size, dtype=torch.int32) for _ in range(4))
    for number, (first, last, prompt_start, prompt_end) in enumerate(segments):
        tokens, past = slice(first, last), prompt_end - prompt_start
        segment[tokens], start[tokens], end[tokens] = number, prompt_start, prompt_end
        place[tokens] = torch.arange(past, past + last - first)
    segment, start, end, place = (x.to(device) for x in (segment, start, end, place))
    reach = size if window is None else window

    def mask(_batch: Any, _head: Any, q: Tensor, k: Tensor) -> Tensor:
        own = (segment[q] == segment[k]) & (k <= q)
        return (own | ((k >= start[q]) & (k < end[q]))) & (place[q] - place[k] < reach)

    return mask


@cache
def _cap_scores(softcap: float | None) -> Any:
    if softcap is None:
        return None
    return lambda score, *_where: softcap * torch.tanh(score / softcap)


@cache
def _flex_kernel() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
