"""Log-probabilities of tokens from hidden states, a chunk of positions at a time.

The full logits [A, V] never exist: they would take more memory than the rest of a small model.

A positions (trained or scored tokens), C positions of a chunk, E hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bezoar.model.limited_attention import capped

LOGITS_HELD = 2**24  # 32 MiB in bfloat16
# logits that become probabilities at once, so that they stay in the processor's cache
_IN_CACHE = 2**18


@dataclass(frozen=True)
class OutputLayer:
    """From states h to logits: weight h + bias, of which some models take cap tanh(. / cap)."""

    weight: Tensor  # [V, E]
    bias: Tensor | None = None  # [V]
    softcap: float | None = None
    rows: tuple[Tensor, Tensor] | None = None
    """Rows [n, E] of a frozen weight that train, as they stand in it, and their ids [n]."""

    def logprobs(self, hidden: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
        """See `logprobs`."""
        options: Any = {"bias": self.bias, "softcap": self.softcap, "temperature": temperature}
        options["rows"] = self.rows
        return logprobs(hidden, self.weight, target, **options)

    @torch.no_grad()
    def logprobs_and_greedy(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities [A], and whether each target was the most likely token [A]."""
        values = torch.empty(target.shape, dtype=torch.float32, device=hidden.device)
        greedy = torch.empty(target.shape, dtype=torch.bool, device=hidden.device)
        for part in _chunks(target.shape[0], self.weight.shape[0], LOGITS_HELD):
            logits = self.logits(hidden[part])
            greedy[part] = logits.argmax(-1) == target[part]
            values[part] = _softmax_(logits, target[part])
        return values, greedy

    @torch.no_grad()
    def entropies(
        self, hidden: Tensor, *, temperature: float = 1.0, held: int = LOGITS_HELD
    ) -> Tensor:
        """Entropies (nats) of softmax(logits / temperature): [A, E] -> [A] in float32."""
        values = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for part in _chunks(hidden.shape[0], self.weight.shape[0], held):
            logits = self.logits(hidden[part])
            logits = logits if temperature == 1.0 else logits / temperature
            for rows in _cached_rows(logits):
                logs = torch.log_softmax(logits[rows], -1, dtype=torch.float32)
                values[part][rows] = -(logs.exp() * logs).sum(-1)
        return values

    def logits(self, hidden: Tensor) -> Tensor:
        """[C, E] -> [C, V] in the precision of `hidden`."""
        return _logits(hidden, self.weight.to(hidden.dtype), self.bias, self.softcap)


def logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
    temperature: float = 1.0,
    held: int = LOGITS_HELD,
) -> Tensor:
    """log softmax(logits / temperature)[target]: [A, E], [V, E], [A] -> [A] in float32.

    The gradient for `hidden` is formed in the forward pass, while a chunk's logits are at hand;
    that for `weight` and `bias`, if they train (tied or not), in the backward pass from logits
    computed anew. Of a frozen `weight` some `rows` may train. At most `held` logits exist at once.
    """
    trained, ids = rows or (None, None)
    settings = _Settings(softcap, temperature, held, ids)
    values: Tensor = _Logprobs.apply(hidden, weight, bias, trained, target, settings)  # type: ignore[no-untyped-call]
    return values


class _Settings(NamedTuple):
    softcap: float | None
    temperature: float
    held: int
    ids: Tensor | None  # [n], of the rows that train


class _Logprobs(torch.autograd.Function):
    """d logprob / d logits = onehot(target) - softmax(logits), divided by the temperature.

    So d / d hidden = weight[target] - softmax weight; capped logits z pass on 1 - (z / cap)^2.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        target: Tensor,
        settings: _Settings,
    ) -> Tensor:
        values = torch.empty(target.shape[0], dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        trained, weight = (weight, bias), weight.to(hidden.dtype)
        # [A, n], by the logits of the rows that train
        by_rows = None if rows is None else hidden.new_empty(target.shape[0], rows.shape[0])
        for part in _chunks(target.shape[0], weight.shape[0], settings.held):
            # 1) logits [C, V] become probabilities in place
            chances, damping = _damped(hidden[part], weight, bias, settings)
            values[part] = _softmax_(chances, target[part])
            # 2) their gradient now: later the logits would have to be computed again
            if slopes is not None:
                own = _damp_(chances, damping, target[part])
                slopes[part] = weight[target[part]] * own - chances @ weight
                if by_rows is not None:
                    is_target = target[part, None] == settings.ids
                    by_rows[part] = is_target * own - chances[:, settings.ids]
        train = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        saved = (hidden, *trained, target) if train else (None, None, None, None)
        ctx.save_for_backward(slopes, *saved, by_rows, None if rows is None else hidden)
        ctx.settings = settings
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes, hidden, weight, bias, target, by_rows, states = ctx.saved_tensors
        grad = grad / ctx.settings.temperature
        by_hidden = None if slopes is None else slopes * grad[:, None].to(slopes.dtype)
        if by_rows is not None:
            by_rows = (by_rows.float() * grad[:, None]).T @ states.float()  # [n, E]
        if weight is None:
            return by_hidden, None, None, by_rows, None, None
        matrix = weight.to(hidden.dtype)
        # float32, because every chunk adds to it
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        by_bias = torch.zeros(weight.shape[:1], dtype=torch.float32, device=weight.device)
        for part in _chunks(target.shape[0], weight.shape[0], ctx.settings.held):
            chances, damping = _damped(hidden[part], matrix, bias, ctx.settings)
            _softmax_(chances, target[part])
            own = _damp_(chances, damping, target[part])
            scaled, slope = hidden[part] * grad[part, None].to(hidden.dtype), grad[part, None]
            by_weight.index_add_(0, target[part], (scaled * own).float()).sub_(chances.T @ scaled)
            if bias is not None:
                by_bias.index_add_(0, target[part], (slope * own).expand(len(slope), 1)[:, 0])
                by_bias.sub_((chances * slope).sum(0))
        bias_gradient = None if bias is None else by_bias.to(bias.dtype)
        return by_hidden, by_weight.to(weight.dtype), bias_gradient, by_rows, None, None


def _damped(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings
) -> tuple[Tensor, Tensor | None]:
    """Logits [C, V] over the temperature, and what their cap leaves of a gradient [C, V]."""
    logits, damping = _logits(hidden, weight, bias, settings.softcap), None
    if settings.softcap is not None:
        damping = 1 - (logits / settings.softcap).square()
    if settings.temperature != 1.0:
        logits = logits / settings.temperature
    return logits, damping


def _damp_(chances: Tensor, damping: Tensor | None, target: Tensor) -> Tensor:
    """Multiply probabilities by what the cap leaves, in place; [C, 1] of it for the targets."""
    if damping is None:
        return chances.new_ones(1, 1)
    chances.mul_(damping)
    return damping.gather(1, target[:, None])


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return capped(logits, softcap)


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
