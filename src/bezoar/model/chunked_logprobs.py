"""Log-probabilities of tokens from hidden states, a chunk of positions at a time.

The full logits [A, V] never exist: they would take more memory than the rest of a small model.

A positions (trained or scored tokens), C positions of a chunk, E hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

LOGITS_HELD = 2**24  # 32 MiB in bfloat16
# logits that become probabilities at once, so that they stay in the processor's cache
_IN_CACHE = 2**18


def logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    held: int = LOGITS_HELD,
) -> Tensor:
    """log softmax(hidden weightᵀ / temperature)[target]: [A, E], [V, E], [A] -> [A] in float32.

    The gradient for `hidden` is formed in the forward pass, while a chunk's logits are at hand;
    that for `weight`, if it trains (tied or not), in the backward pass from logits computed anew.
    At most `held` logits exist at once.
    """
    values: Tensor = _Logprobs.apply(hidden, weight, target, temperature, held)  # type: ignore[no-untyped-call]
    return values


@torch.no_grad()
def logprobs_and_greedy(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities [A], and whether each target was the most likely token [A]."""
    weight = weight.to(hidden.dtype)
    values = torch.empty(target.shape, dtype=torch.float32, device=hidden.device)
    greedy = torch.empty(target.shape, dtype=torch.bool, device=hidden.device)
    for part in _chunks(target.shape[0], weight.shape[0], LOGITS_HELD):
        logits = _logits(hidden[part], weight, 1.0)
        greedy[part] = logits.argmax(-1) == target[part]
        values[part] = _softmax_(logits, target[part])
    return values, greedy


@torch.no_grad()
def entropies(
    hidden: Tensor, weight: Tensor, *, temperature: float = 1.0, held: int = LOGITS_HELD
) -> Tensor:
    """Entropies (nats) of softmax(hidden weightᵀ / temperature): [A, E], [V, E] -> [A], float32."""
    values = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    weight = weight.to(hidden.dtype)
    for part in _chunks(hidden.shape[0], weight.shape[0], held):
        logits = _logits(hidden[part], weight, temperature)
        for rows in _cached_rows(logits):
            logs = torch.log_softmax(logits[rows], -1, dtype=torch.float32)
            values[part][rows] = -(logs.exp() * logs).sum(-1)
    return values


class _Logprobs(torch.autograd.Function):
    """d logprob / d logits = onehot(target) - softmax(logits).

    So d / d hidden = weight[target] - softmax weight, divided by the temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, held: int
    ) -> Tensor:
        values = torch.empty(target.shape[0], dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        trained, weight = weight, weight.to(hidden.dtype)
        for part in _chunks(target.shape[0], weight.shape[0], held):
            # 1) logits [C, V] become probabilities in place
            chances = _logits(hidden[part], weight, temperature)
            values[part] = _softmax_(chances, target[part])
            # 2) their gradient now: later the logits would have to be computed again
            if slopes is not None:
                slopes[part] = weight[target[part]] - chances @ weight
        saved = (hidden, trained, target) if ctx.needs_input_grad[1] else (None, None, None)
        ctx.save_for_backward(slopes, *saved)
        ctx.temperature, ctx.held = temperature, held
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        slopes, hidden, weight, target = ctx.saved_tensors
        grad = grad / ctx.temperature
        by_hidden = None if slopes is None else slopes * grad[:, None].to(slopes.dtype)
        if weight is None:
            return by_hidden, None, None, None, None
        matrix = weight.to(hidden.dtype)
        # float32, because every chunk adds to it
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for part in _chunks(target.shape[0], weight.shape[0], ctx.held):
            chances = _logits(hidden[part], matrix, ctx.temperature)
            _softmax_(chances, target[part])
            scaled = hidden[part] * grad[part, None].to(hidden.dtype)
            by_weight.index_add_(0, target[part], scaled.float()).sub_(chances.T @ scaled)
        return by_hidden, by_weight.to(weight.dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = hidden @ weight.T
    return logits if temperature == 1.0 else logits / temperature


def _softmax_(logits: Tensor, target: Tensor) -> Tensor:
    """Turn logits into probabilities in place; returns the targets' log-probabilities, float32."""
    values = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    for rows in _cached_rows(logits):
        logs = torch.log_softmax(logits[rows], -1, dtype=torch.float32)
        values[rows] = logs.gather(1, target[rows, None])[:, 0]
        logits[rows] = logs.exp_()
    return values


def _chunks(count: int, vocabulary: int, held: int) -> list[slice]:
    size = max(1, held // vocabulary)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _cached_rows(logits: Tensor) -> list[slice]:
    held = _IN_CACHE if logits.device.type == "cpu" else logits.numel()
    return _chunks(logits.shape[0], logits.shape[1], held)
