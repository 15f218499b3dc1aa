"""The fused attention over segments of a packed row, with its gradient written out.

H query heads, G key/value heads, n = H / G, T tokens of the row, S tokens of a segment, K keys that
it sees, D head size.

A completion attends to its own past and to its prompt, which lies elsewhere in the row. Forward,
the fused kernel computes both parts separately, and their log-sum-exps L1 and L2 join them:
L = log(e^L1 + e^L2) and O = O1 e^(L1 - L) + O2 e^(L2 - L). Backward, the weights are formed anew
from L, a block of queries at a time: for segments as short as chats this is several times faster
than the fused kernel's backward on a CPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Segments = tuple[tuple[int, int, int, int], ...]
_aten = torch.ops.aten
# queries at once in the backward pass; sizes are rounded up to multiples of the step, because each
# new size costs a new kernel
_BLOCK, _STEP = 128, 64


def attend_fused(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
    out: Tensor = _Attention.apply(query, key, value, segments, scale)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        _, H, T, D = query.shape
        groups = key.shape[1]
        # 1) views [G, n, T, D] of everything; `out` lies in memory as the next product reads it
        q = grouped(query, groups)
        k, v = (grouped(x, groups).expand(q.shape) for x in (key, value))
        out = torch.empty(T, H, D, dtype=query.dtype, device=query.device)
        o = grouped(out.transpose(0, 1)[None], groups)
        totals = torch.empty(groups, H // groups, T, dtype=torch.float32, device=query.device)
        for start, end, prompt_start, prompt_end in segments:
            own, prompt = slice(start, end), slice(prompt_start, prompt_end)
            # 2) the segment's own past, which is causal
            part, total = _forward(q[:, :, own], k[:, :, own], v[:, :, own], True, scale)
            # 3) all of its prompt, joined in float32: bfloat16 weights would not sum to 1
            if prompt_end > prompt_start:
                other, other_total = _forward(
                    q[:, :, own], k[:, :, prompt], v[:, :, prompt], False, scale
                )
                joined = torch.logaddexp(total, other_total)
                part = (
                    part.float() * (total - joined).exp()[..., None]
                    + other.float() * (other_total - joined).exp()[..., None]
                )
                total = joined
            o[:, :, own], totals[:, :, own] = part, total
        ctx.save_for_backward(query, key, value, totals)
        ctx.segments, ctx.scale = segments, scale
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, totals = ctx.saved_tensors
        q, g = (grouped(x, key.shape[1]) for x in (query, grad))  # [G, n, T, D]
        dq = torch.empty(q.shape, dtype=query.dtype, device=query.device)
        # float32: the gradients of a prompt are sums over all its completions
        dk, dv = (
            torch.zeros(x[0].shape, dtype=torch.float32, device=x.device) for x in (key, value)
        )
        for start, end, prompt_start, prompt_end in ctx.segments:
            own, prompt = slice(start, end), slice(prompt_start, prompt_end)
            # 1) the prompt's keys in front of the segment's own: one causal pattern [S, K]
            size = prompt_end - prompt_start
            keys, values = (
                torch.cat((x[0, :, prompt], x[0, :, own]), 1) if size else x[0, :, own]
                for x in (key, value)
            )
            dq[:, :, own], by_keys, by_values = _backward(
                g[:, :, own], q[:, :, own], keys, values, totals[:, :, own], ctx.scale
            )
            # 2) back to where the two parts came from
            for whole, part in ((dk, by_keys), (dv, by_values)):
                whole[:, own] += part[:, size:]
                whole[:, prompt] += part[:, :size]
        return dq.view(query.shape), dk[None].to(key.dtype), dv[None].to(value.dtype), None, None


def _forward(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """[G, n, S, D] -> [G, n, S, D] and the log-sum-exp [G, n, S] in float32."""
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
    """Gradients for query, and for key and value in float32.

    grad and query [G, n, S, D], key and value [G, K, D] of the prompt and the segment, total [G, n,
    S] the log-sum-exp. Query s sees keys 0..K-S+s.
    """
    groups, n, size, width = query.shape
    num_keys, past = key.shape[1], key.shape[1] - size
    # 1) pad with rows of zeros. They change nothing: no real query sees those keys, and the
    #    gradients of those queries are 0
    q, g = _padded(query * scale, _up(size)), _padded(grad, _up(size))
    k, v = (_padded(x, past + _up(size)) for x in (key, value))
    k, v = (_padded(x, _up(k.shape[1])) for x in (k, v))
    q_total, k_ones = _with_total(q, k, total)
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
    for start in range(0, q.shape[2], _BLOCK):
        # 2) a block of queries and all keys that any of them sees; the n queries that share a key
        #    head are rows of one product, so that keys are not repeated
        rows = slice(start, min(start + _BLOCK, q.shape[2]))
        seen = slice(0, min(_up(past + rows.stop), k.shape[1]))
        q_rows, g_rows, q_total_rows = (
            x[:, :, rows].reshape(groups, -1, x.shape[-1]) for x in (q, g, q_total)
        )
        # 3) the attention weights anew: exp(score - log-sum-exp), 0 for keys in the future
        scores = torch.bmm(q_total_rows, k_ones[:, seen].transpose(1, 2))
        future = _future(rows.stop - start, seen.stop - past - start, scores)
        scores.view(groups, n, -1, seen.stop)[..., past + start :] += future
        weights = scores.exp_()
        # 4) to the values, then through the softmax to queries and keys
        dv[:, seen] += torch.bmm(weights.transpose(1, 2), g_rows)
        slope = torch.bmm(g_rows, v[:, seen].transpose(1, 2))
        slope = torch._softmax_backward_data(slope, weights, -1, slope.dtype)
        dq[:, :, rows] = torch.bmm(slope, k[:, seen]).view(groups, n, -1, width)
        dk[:, seen] += torch.bmm(slope.transpose(1, 2), q_rows)
    return dq[:, :, :size].mul_(scale), dk[:, :num_keys], dv[:, :num_keys]


def _with_total(q: Tensor, k: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """q and k with two more columns, so that their product is the score less the log-sum-exp."""
    # the exponential takes that as it is: no pass over the scores for a scale, a maximum or a sum,
    # and one rounding where the weights are large instead of where the scores are; the second
    # column holds what the first one lost by rounding
    minus = pad(-total, (0, q.shape[2] - total.shape[2]))[..., None]
    rounded = minus.to(q.dtype)
    ones = k.new_ones(*k.shape[:-1], 2)
    return torch.cat((q, rounded, (minus - rounded).to(q.dtype)), -1), torch.cat((k, ones), -1)


def _up(size: int) -> int:
    return -(-size // _STEP) * _STEP


def _padded(x: Tensor, size: int) -> Tensor:
    """x [..., S, D], contiguous, with rows of zeros behind it up to `size`."""
    return pad(x, (0, 0, 0, size - x.shape[-2])).contiguous()


def _future(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows, columns]: minus infinity where a key comes after the query, else 0."""
    return torch.full((rows, columns), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def grouped(tensor: Tensor, groups: int) -> Tensor:
    """[1, G or H, T, D] as [G, n, T, D] without a copy (n is 1 for keys and values)."""
    grouped: Tensor = tensor[0].unflatten(0, (groups, -1))  # type: ignore[no-untyped-call]
    return grouped
