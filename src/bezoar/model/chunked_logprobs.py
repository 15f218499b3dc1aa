"""Log-probabilities of given tokens from hidden states, a chunk of positions at a time: no full
logits are ever held.

A positions (trained or scored tokens), E hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

LOGITS_HELD = 2**24
"""32 MiB in bfloat16."""
_IN_CACHE = 2**18
"""Logits that are turned into probabilities at once, so that they stay in the processor's cache."""


def logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    held: int = LOGITS_HELD,
) -> Tensor:
    """log softmax(hidden weightᵀ / temperature)[target]: hidden [A, E], weight [V, E], target [A]
    -> [A] in float32.

    The gradient for `hidden` is formed in the forward pass, while a chunk's logits are at hand;
    that for `weight`, where it trains (tied or not), is formed in the backward pass from logits
    computed anew. At most `held` logits exist at once.
    """
    return _Logprobs.apply(hidden, weight, target, temperature, held)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def logprobs_and_greedy(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities [A], and whether each target was the most likely token [A]."""
    weight = weight.to(hidden.dtype)
    values, greedy = (
        [torch.empty(0, device=hidden.device)],
        [torch.empty(0, dtype=torch.bool, device=hidden.device)],
    )
    for part in _chunks(target.shape[0], weight.shape[0], LOGITS_HELD):
        logits = _logits(hidden[part], weight, 1.0)
        greedy.append(logits.argmax(-1) == target[part])
        values.append(_softmax_(logits, target[part]))
    return torch.cat(values), torch.cat(greedy)


@torch.no_grad()
def entropies(
    hidden: Tensor, weight: Tensor, *, temperature: float = 1.0, held: int = LOGITS_HELD
) -> Tensor:
    """The entropy (nats) of softmax(hidden weightᵀ / temperature) at each position: hidden [A, E],
    weight [V, E] -> [A] in float32."""
    values = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    weight = weight.to(hidden.dtype)
    for part in _chunks(hidden.shape[0], weight.shape[0], held):
        logits = _logits(hidden[part], weight, temperature)
        for rows in _chunks(
            logits.shape[0],
            logits.shape[1],
            _IN_CACHE if logits.device.type == "cpu" else logits.numel(),
        ):
            logs = torch.log_softmax(logits[rows], -1, dtype=torch.float32)
            values[part][rows] = -(logs.exp() * logs).sum(-1)
    return values


def _chunks(count: int, vocabulary: int, held: int) -> list[slice]:
    size = max(1, held // vocabulary)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = hidden @ weight.T
    return logits if temperature == 1.0 else logits / temperature


def _softmax_(logits: Tensor, target: Tensor) -> Tensor:
    """Make probabilities of the logits, in place; returns the log-probabilities of the targets, all
    computed in float32."""
    values = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    for part in _chunks(
        logits.shape[0],
        logits.shape[1],
        _IN_CACHE if logits.device.type == "cpu" else logits.numel(),
    ):
        logs = torch.log_softmax(logits[part], -1, dtype=torch.float32)
        values[part] = logs.gather(1, target[part, None])[:, 0]
        logits[part] = logs.exp_()
    return values


class _Logprobs(torch.autograd.Function):
    """d logprob / d logits = onehot(target) - softmax(logits), so that d / d hidden =
    weight[target] - softmax weight."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, held: int
    ) -> Tensor:  # type: ignore[override]
        values = torch.empty(target.shape[0], dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        trained, weight = weight, weight.to(hidden.dtype)
        for part in _chunks(target.shape[0], weight.shape[0], held):
            chances = _logits(hidden[part], weight, temperature)
            values[part] = _softmax_(chances, target[part])
            if slopes is not None:
                slopes[part] = weight[target[part]] - chances @ weight
        ctx.save_for_backward(
            slopes, *((hidden, trained, target) if ctx.needs_input_grad[1] else (None, None, None))
        )
        ctx.temperature, ctx.held = temperature, held
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # type: ignore[override]
        slopes, hidden, weight, target = ctx.saved_tensors
        grad = grad / ctx.temperature
        by_hidden = None if slopes is None else slopes * grad[:, None].to(slopes.dtype)
        if weight is None:
            return by_hidden, None, None, None, None
        matrix = weight.to(hidden.dtype)
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for part in _chunks(target.shape[0], weight.shape[0], ctx.held):
            chances = _logits(hidden[part], matrix, ctx.temperature)
            _softmax_(chances, target[part])
            pulled = hidden[part] * grad[part, None].to(hidden.dtype)
            by_weight.index_add_(0, target[part], pulled.float()).sub_(chances.T @ pulled)
        return by_hidden, by_weight.to(weight.dtype), None, None, None
