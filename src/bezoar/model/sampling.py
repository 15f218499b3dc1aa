"""The next token of each answer: the likeliest, or one drawn from softmax(logits / temperature).

n answers, V vocabulary, K candidates. Every answer draws from its own generator, so its tokens do
not depend on which other answers share the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bezoar.model.structured_output import StructuredOutput

# tokens among which a nucleus is first looked for: sorting the whole vocabulary is slow
_FIRST_CANDIDATES = 256


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when an answer ends.

    Temperature 0 is greedy; `top_k` above 0 keeps so many of the likeliest tokens, and `top_p`
    below 1 of these the fewest that make up this share (nucleus sampling, arXiv 1904.09751). A stop
    token is not part of the answer, the tokens of a stop string are. With `form` only tokens are
    drawn that can go on to an answer of that form, and a stop token only where it is complete.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int = 0
    top_k: int = 0
    form: StructuredOutput | None = None

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_p < 1 or self.top_k > 0


@dataclass
class Sampler:
    """Draws the tokens of one answer; equal parameters and logits give equal tokens."""

    params: SamplingParams
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.params.seed % 2**63)

    def draw(self) -> float:
        """A number in [0, 1)."""
        return float(torch.rand((), dtype=torch.float64, generator=self.generator))


def sample_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One token for each row of logits [n, V]."""
    # 1) the likeliest token for every row, which is final for greedy answers
    tokens = _likeliest(logits)  # [n]
    # 2) draws replace it, once for the rows without a nucleus and once for those with one: a step
    #    costs a few large operations however many answers it serves
    for nucleus in (False, True):
        rows = [
            row
            for row, sampler in enumerate(samplers)
            if sampler.params.temperature > 0 and sampler.params.cuts == nucleus
        ]
        if not rows:
            continue
        device, params = logits.device, [samplers[row].params for row in rows]
        temperatures = torch.tensor([p.temperature for p in params], device=device)
        numbers = [samplers[row].draw() for row in rows]
        draws = torch.tensor(numbers, dtype=torch.float64, device=device)
        scaled = logits[rows].float() / temperatures[:, None]
        if nucleus:
            shares = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
            most = torch.tensor([p.top_k or logits.shape[1] for p in params], device=device)
            tokens[rows] = _from_nucleus(scaled, shares, most, draws)
        else:
            tokens[rows] = _pick(scaled.softmax(-1).double(), draws)
    return tokens.tolist()


def _likeliest(logits: Tensor) -> Tensor:
    """The first of the largest logits of each row, by the largest of its blocks: on a CPU a fifth
    of the time that `max` takes over the whole vocabulary."""
    width = math.gcd(logits.shape[1], 256)
    if width < 16:
        return logits.max(-1).indices
    blocks = logits.view(len(logits), -1, width)
    block = blocks.amax(-1).max(-1).indices
    rows = torch.arange(len(logits), device=logits.device)
    return block * width + blocks[rows, block].max(-1).indices


def _pick(weights: Tensor, draws: Tensor) -> Tensor:
    """The index at which the running sum of weights [n, K] passes draw * total."""
    sums = weights.cumsum(-1)
    index = torch.searchsorted(sums, (draws * sums[:, -1])[:, None], right=True)[:, 0]
    return index.clamp_(max=weights.shape[1] - 1)


def _from_nucleus(logits: Tensor, shares: Tensor, most: Tensor, draws: Tensor) -> Tensor:
    """Draw from the fewest likeliest tokens that make up `shares` [n] of the `most` [n] first."""
    total = logits.logsumexp(-1, keepdim=True)
    num = min(_FIRST_CANDIDATES, logits.shape[1])
    while True:
        top, tokens = logits.topk(num, -1)  # [n, K], likeliest first
        chances = (top - total).exp().double()
        before = chances.cumsum(-1) - chances
        # the candidates suffice as soon as they hold every row's nucleus, or its likeliest tokens
        enough = (before[:, -1] + chances[:, -1] >= shares) & (most == logits.shape[1])
        if num == logits.shape[1] or bool((enough | (most <= num)).all()):
            break
        num = min(num * 16, logits.shape[1])
    # a token belongs to the nucleus while the likelier ones have not yet filled the share
    chances = chances * (torch.arange(num, device=most.device) < most[:, None])
    whole = torch.where(most < logits.shape[1], chances.sum(-1), 1.0)
    index = _pick(chances * (before < (shares * whole)[:, None]), draws)
    return tokens.gather(1, index[:, None])[:, 0]
