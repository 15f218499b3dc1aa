"""Attention with a sliding window or with capped scores, a block of queries at a time.

Mistral and Gemma let a token see only the nearest positions (a sliding window, arXiv 2310.06825,
section 2); Gemma 2 keeps scores within a bound, cap tanh(score / cap) (arXiv 2408.00118, section
2). Only the keys that a block sees are read, and its weights are formed anew backward: long rows
take memory for one block.

H query heads, G key/value heads, n = H / G, S queries, K keys, D head size.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# queries at once, and where no gradients are formed
_BLOCK, _SMALL = 256, 64


class Rule(NamedTuple):
    """Scores are multiplied by `scale` (by default D^-0.5) and at most `softcap`; a position sees
    itself and the `window` - 1 before it."""

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None

    def scaling(self, query: Tensor) -> float:
        """The scale for queries [..., D]."""
        return float(query.shape[-1] ** -0.5) if self.scale is None else self.scale

    def limits(self, length: int) -> bool:
        """Whether more than the past decides in a sequence of so many positions."""
        return self.softcap is not None or (self.window is not None and length > self.window)

    def first(self, position: int) -> int:
        """The first position that another one sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)


PLAIN = Rule()


def attend_limited(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """query [G, n, S, D], the last S of K positions, key and value [G, K, D] -> [G, n, S, D]."""
    size, past = query.shape[2], key.shape[1] - query.shape[2]
    parts = []
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        seen = slice(rule.first(past + start), past + end)
        inputs = (query[:, :, start:end], key[:, seen], value[:, seen], rule)
        if torch.is_grad_enabled():
            part = checkpoint(_block, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            part = _block(*inputs)
        parts.append(part)
    return torch.cat(parts, 2)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """`scores` within -softcap..softcap."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _block(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    groups, n, size, width = query.shape
    num_keys, past = key.shape[1], key.shape[1] - size
    # the n queries that share a key head are rows of one product, so that keys are not repeated
    scores = query.reshape(groups, -1, width) @ key.transpose(1, 2) * rule.scaling(query)
    scores = capped(scores.float().view(groups, n, size, num_keys), rule.softcap)
    seen = torch.ones(size, num_keys, dtype=torch.bool, device=query.device).tril(past)
    if rule.window is not None:
        seen = seen.triu(past - rule.window + 1)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype)
    return (weights.view(groups, -1, num_keys) @ value).view(groups, n, size, -1)


def attend_blocks(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same without a rule and without gradients, in half the time of PyTorch's kernel on a CPU
    in bfloat16, which multiplies in float32."""
    groups, n, size, width = query.shape
    past, out = key.shape[1] - size, torch.empty_like(query)
    future = query.new_full((_SMALL, _SMALL), float("-inf")).triu_(1)
    for start in range(0, size, _SMALL):
        rows = slice(start, min(start + _SMALL, size))
        num, seen = rows.stop - start, past + rows.stop
        q = query[:, :, rows].reshape(groups, -1, width)
        scores = torch.bmm(q, key[:, :seen].transpose(1, 2)).mul_(scale)
        scores.view(groups, n, num, seen)[..., past + start :] += future[:num, :num]
        part = torch.bmm(scores.softmax(-1), value[:, :seen])
        out[:, :, rows] = part.view(groups, n, num, width)
    return out
