"""Attention over the segments of a flat row, without a mask over the row: forward and backward of a
loop over segments.

H query heads, G key/value heads, n = H / G, T tokens of the row, S tokens of a segment, K keys that
it sees, D head size.

A later branch attends to its trunk and to its own past. Going forward the two parts are computed
apart by the fused kernel and joined by their log-sum-exps: with L1, L2 those of the parts, L =
log(e^L1 + e^L2) and O = O1 e^(L1 - L) + O2 e^(L2 - L). Going backward the weights are formed anew
from the log-sum-exps, a block of queries against all that they see: for segments as short as chats
this is several times faster than the fused kernel's backward on a CPU.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

_aten = torch.ops.aten
_BLOCK, _STEP = 128, 64
"""Queries at once going backward; sizes are rounded up to multiples of the step, for each new size
costs a new kernel."""


class Segment(NamedTuple):
    """Tokens start..end of a row, which see their own past and trunk_start..trunk_end (empty for
    none)."""

    start: int
    end: int
    trunk_start: int
    trunk_end: int


def attend(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # under autocast rotated queries and keys are float32
    query, key = query.to(value.dtype), key.to(value.dtype)
    return _Segments.apply(query, key, value, segments, scale)  # type: ignore[no-any-return, no-untyped-call]


def attend_dense(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    """The same by a mask over the whole row, left to autograd: slow, and what `attend` is checked
    against."""
    size, repeats = query.shape[2], query.shape[1] // key.shape[1]
    mask = torch.zeros(size, size, dtype=torch.bool, device=query.device)
    for a, b, c, d in segments:
        mask[a:b, a:b] = torch.ones(b - a, b - a, dtype=torch.bool).tril()
        mask[a:b, c:d] = True
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scores = (
        query.to(value.dtype)
        @ key.to(value.dtype).transpose(2, 3)
        * (query.shape[-1] ** -0.5 if scale is None else scale)
    )
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value


def _forward(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """[G, n, S, D] and the log-sum-exp [G, n, S] in float32."""
    if query.device.type == "cpu":
        out, total = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return out, total
    scores = (query.float() @ key.float().transpose(-1, -2)) * scale
    if causal:
        scores = scores + _future(scores.shape[-2], scores.shape[-1], scores)
    total = scores.logsumexp(-1)
    return ((scores - total[..., None]).exp() @ value.float()).to(query.dtype), total


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, total: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """grad and query [G, n, S, D], key and value [G, K, D] of the trunk and the segment, total [G,
    n, S] the log-sum-exp.

    Query s sees keys 0..K-S+s. Rows of zeros behind the last query and key have no effect: no real
    query sees those keys, and their gradients are 0. Returns the gradients for query, and for key
    and value in float32.
    """
    groups, n, size, width = query.shape
    num_keys, past = key.shape[1], key.shape[1] - size
    q, g = _longer(query * scale, _up(size)), _longer(grad, _up(size))
    k, v = (_longer(x, past + _up(size)) for x in (key, value))
    k, v = (_longer(x, _up(k.shape[1])) for x in (k, v))
    q_total, k_ones = _with_total(q, k, total)
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
    for start in range(0, q.shape[2], _BLOCK):
        rows = slice(start, min(start + _BLOCK, q.shape[2]))
        seen = slice(0, min(_up(past + rows.stop), k.shape[1]))
        one, two, one_total = (
            x[:, :, rows].reshape(groups, -1, x.shape[-1]) for x in (q, g, q_total)
        )
        keys, values = k[:, seen], v[:, seen]
        scores = torch.bmm(one_total, k_ones[:, seen].transpose(1, 2))
        scores.view(groups, n, -1, seen.stop)[..., past + start :] += _future(
            rows.stop - start, seen.stop - past - start, scores
        )
        chance = scores.exp_()
        dv[:, seen] += torch.bmm(chance.transpose(1, 2), two)
        slope = torch.bmm(two, values.transpose(1, 2))
        slope = torch._softmax_backward_data(slope, chance, -1, slope.dtype)
        dq[:, :, rows] = torch.bmm(slope, keys).view(groups, n, -1, width)
        dk[:, seen] += torch.bmm(slope.transpose(1, 2), one)
    return dq[:, :, :size].mul_(scale), dk[:, :num_keys], dv[:, :num_keys]


def _with_total(q: Tensor, k: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """q and k with two numbers more a row, so that their product is the score less the log-sum-exp,
    summed in float32.

    That is what the exponential takes: no pass over the scores for a scale, a maximum or a sum, and
    one rounding where the chances are large instead of where the scores are. The second number is
    what the first one lost by rounding.
    """
    less = torch.nn.functional.pad(-total, (0, q.shape[2] - total.shape[2]))[..., None]
    first = less.to(q.dtype)
    ones = k.new_ones(*k.shape[:-1], 2)
    return torch.cat((q, first, (less - first).to(q.dtype)), -1), torch.cat((k, ones), -1)


def _up(size: int) -> int:
    return -(-size // _STEP) * _STEP


def _longer(x: Tensor, size: int) -> Tensor:
    """x [..., S, D], contiguous, with rows of zeros behind it up to `size`."""
    return torch.nn.functional.pad(x, (0, 0, 0, size - x.shape[-2])).contiguous()


def _future(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows, columns]: minus infinity where a key comes after the query, else 0."""
    return torch.full((rows, columns), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def _grouped(tensor: Tensor, heads: int) -> Tensor:
    """[1, G or H, T, D] as [G, n, T, D] without a copy; keys and values are repeated by a stride of
    zero."""
    grouped: Tensor = tensor[0].unflatten(0, (heads, -1))  # type: ignore[no-untyped-call]
    return grouped


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
    ) -> Tensor:  # type: ignore[override]
        _, H, T, D = query.shape
        groups = key.shape[1]
        q = _grouped(query, groups)
        k, v = (_grouped(x, groups).expand(q.shape) for x in (key, value))
        out = torch.empty(T, H, D, dtype=query.dtype, device=query.device)
        o = _grouped(out.transpose(0, 1)[None], groups)
        totals = torch.empty(groups, H // groups, T, dtype=torch.float32, device=query.device)
        for a, b, c, d in segments:
            part, total = _forward(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], True, scale)
            if d > c:
                prompt, total_trunk = _forward(
                    q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], False, scale
                )
                whole = torch.logaddexp(total, total_trunk)
                part = (
                    part.float() * (total - whole).exp()[..., None]
                    + prompt.float() * (total_trunk - whole).exp()[..., None]
                )
                total = whole
            o[:, :, a:b], totals[:, :, a:b] = part, total
        ctx.save_for_backward(query, key, value, totals)
        ctx.segments, ctx.scale = segments, scale
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, totals = ctx.saved_tensors
        q, g = (_grouped(x, key.shape[1]) for x in (query, grad))
        dq = torch.empty(q.shape, dtype=query.dtype, device=query.device)
        dk, dv = (
            torch.zeros(x[0].shape, dtype=torch.float32, device=x.device) for x in (key, value)
        )
        for a, b, c, d in ctx.segments:
            keys, values = (
                x[0, :, a:b] if c == d else torch.cat((x[0, :, c:d], x[0, :, a:b]), 1)
                for x in (key, value)
            )
            dq[:, :, a:b], by_key, by_value = _backward(
                g[:, :, a:b], q[:, :, a:b], keys, values, totals[:, :, a:b], ctx.scale
            )
            for whole, part in ((dk, by_key), (dv, by_value)):
                whole[:, a:b] += part[:, d - c :]
                whole[:, c:d] += part[:, : d - c]
        return dq.view(query.shape), dk[None].to(key.dtype), dv[None].to(value.dtype), None, None
