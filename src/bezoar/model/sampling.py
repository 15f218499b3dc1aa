"""The next token of each of several answers: greedy, or drawn from softmax(logits / temperature)
cut to its nucleus.

n answers, V vocabulary. Each answer has a generator of its own, so its draws do not depend on its
neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

_NUM_TOP = 256


class Manner(Protocol):
    """How a token is chosen: temperature 0 is greedy; top_p keeps the likeliest tokens that make up
    that share (arXiv 1904.09751)."""

    @property
    def temperature(self) -> float: ...

    @property
    def top_p(self) -> float: ...

    @property
    def seed(self) -> int: ...


@dataclass
class Sampler:
    """Chooses one answer's tokens; equal manners and logits give equal tokens."""

    manner: Manner
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.manner.seed % 2**63)

    def draw(self) -> float:
        """A number in [0, 1)."""
        return float(torch.rand((), dtype=torch.float64, generator=self.generator))


def sample_tokens(logits: Tensor, choosers: Sequence[Sampler]) -> list[int]:
    """One token for each row of logits [n, V]."""
    tokens = logits.max(-1).indices  # on a CPU half the time of argmax
    for nucleus in (False, True):
        rows = [
            i
            for i, c in enumerate(choosers)
            if c.manner.temperature > 0 and (c.manner.top_p < 1) == nucleus
        ]
        if not rows:
            continue
        heat = torch.tensor([choosers[i].manner.temperature for i in rows], device=logits.device)
        draws = torch.tensor(
            [choosers[i].draw() for i in rows], dtype=torch.float64, device=logits.device
        )
        scaled = logits[rows].float() / heat[:, None]
        if nucleus:
            shares = torch.tensor(
                [choosers[i].manner.top_p for i in rows], dtype=torch.float64, device=logits.device
            )
            drawn = _from_nucleus(scaled, shares, draws)
        else:
            drawn = _pick(scaled.softmax(-1).double(), draws)
        tokens[rows] = drawn
    return tokens.tolist()  # type: ignore[no-any-return]


def _pick(weights: Tensor, draws: Tensor) -> Tensor:
    """The index at which the running sum of weights [n, K] passes draw * total."""
    sums = weights.cumsum(-1)
    index = torch.searchsorted(sums, (draws * sums[:, -1])[:, None], right=True)[:, 0]
    return index.clamp_(max=weights.shape[1] - 1)


def _from_nucleus(logits: Tensor, shares: Tensor, draws: Tensor) -> Tensor:
    """Tokens drawn from the smallest sets of likeliest tokens whose probability is at least
    `shares` [n]."""
    total = logits.logsumexp(-1, keepdim=True)
    num = min(_NUM_TOP, logits.shape[1])
    while True:
        top, tokens = logits.topk(num, -1)
        chances = (top - total).exp().double()
        before = chances.cumsum(-1) - chances
        if num == logits.shape[1] or bool((before[:, -1] + chances[:, -1] >= shares).all()):
            break
        num = min(num * 16, logits.shape[1])
    index = _pick(chances * (before < shares[:, None]), draws)
    return tokens.gather(1, index[:, None])[:, 0]
