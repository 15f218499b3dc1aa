"""The choice of a token, with draws that are given: cumulative shares by hand, the nucleus, rows
that do not touch each other."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from bezoar.model.sampling import Sampler, SamplingParams, sample_tokens

SHARES = [0.1, 0.4, 0.2, 0.3]  # by likelihood: tokens 1, 3, 2, 0
LOGITS = torch.tensor([math.log(p) for p in SHARES])


@dataclass
class Given(Sampler):
    """Draws what it is told."""

    number: float = 0.0

    def draw(self) -> float:
        return self.number


def chosen(logits: torch.Tensor, draw: float, temperature: float = 1.0, top_p: float = 1.0) -> int:
    return sample_tokens(
        logits[None], [Given(SamplingParams(temperature=temperature, top_p=top_p), number=draw)]
    )[0]


@pytest.mark.parametrize(
    ("draw", "token"),
    [
        (0.0, 0),
        (0.099, 0),
        (0.101, 1),
        (0.499, 1),
        (0.501, 2),
        (0.699, 2),
        (0.701, 3),
        (0.999999, 3),
        (1.0, 3),
    ],
)
def test_tokens_stand_in_their_own_order(draw: float, token: int) -> None:
    assert chosen(LOGITS, draw) == token


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1 - 2**-53, 3)]
)
def test_a_share_is_half_open(draw: float, token: int) -> None:
    assert chosen(torch.zeros(4), draw) == token


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 3, 2]),
        (0.89, [1, 3, 2]),
        (0.91, [1, 3, 2, 0]),
        (0.999, [1, 3, 2, 0]),
    ],
)
def test_the_nucleus_by_hand(top_p: float, kept: list[int]) -> None:
    total, low = sum(SHARES[t] for t in kept), 0.0
    for token in kept:  # the likeliest first
        high = low + SHARES[token] / total
        assert (
            chosen(LOGITS, low + 1e-6, top_p=top_p)
            == chosen(LOGITS, high - 1e-6, top_p=top_p)
            == token
        )
        low = high
    assert chosen(LOGITS, 1 - 2**-53, top_p=top_p) == kept[-1]


def test_the_temperature_divides() -> None:
    # at temperature 1/2 the shares are squared: 0.01, 0.16, 0.04, 0.09 of 0.3
    for draw, token in ((0.033, 0), (0.034, 1), (0.566, 1), (0.567, 2), (0.699, 2), (0.701, 3)):
        assert chosen(LOGITS, draw, temperature=0.5) == token
    # and of the nucleus 0.16 / 0.3 = 0.533, then 0.833
    assert chosen(LOGITS, 0.999, temperature=0.5, top_p=0.53) == 1
    assert chosen(LOGITS, 0.999, temperature=0.5, top_p=0.54) == 3


def test_rows_have_their_own_params() -> None:
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_p=0.5),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0, top_p=0.01),
    ]
    samplers = [Given(one, number=0.99) for one in params]
    logits = torch.stack([LOGITS, LOGITS.flip(0), LOGITS, LOGITS.roll(1), LOGITS.roll(2)])
    # greedy; the last of .3 .2 .4 .1; the second of .4 .3; the last of .09 .01 .16 .04; the
    # likeliest, two places on
    assert sample_tokens(logits, samplers) == [1, 3, 3, 3, 3]
    assert sample_tokens(logits[:1], samplers[:1]) == [1]


def test_a_nucleus_wider_than_the_first_look() -> None:
    """5,000 tokens that are almost alike, each a little less likely than the one before it."""
    logits = torch.arange(5000) * -1e-5
    shares = logits.double().softmax(-1).cumsum(-1)
    for draw in (0.01, 0.5, 0.97):
        wanted = int(torch.searchsorted(shares, draw * float(shares[int((shares < 0.9).sum())])))
        assert abs(chosen(logits, draw, top_p=0.9) - wanted) <= 1
    two = sample_tokens(
        torch.stack([logits, -logits * 1e6]),
        [Given(SamplingParams(temperature=1.0, top_p=0.9), number=0.97) for _ in range(2)],
    )
    assert two[0] > 4000
    assert two[1] == 4999


def test_a_draw_has_53_bits_and_comes_from_the_seed() -> None:
    draws = [Sampler(SamplingParams(seed=seed)).draw() for seed in range(50)]
    assert len(set(draws)) == 50
    assert all(0 <= draw < 1 for draw in draws)
    assert any((draw * 2**24) % 1 for draw in draws)
    assert Sampler(SamplingParams(seed=7)).draw() == Sampler(SamplingParams(seed=7)).draw()
    # any whole number is a seed
    assert Sampler(SamplingParams(seed=2**63 + 7)).draw() == Sampler(SamplingParams(seed=7)).draw()
    assert Sampler(SamplingParams(seed=2**70 + 7)).draw() == Sampler(SamplingParams(seed=7)).draw()
    one = Sampler(SamplingParams(seed=7))
    assert one.draw() != one.draw()


class Looks(TorchFunctionMode):
    """How many of the likeliest tokens are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.topk:
            self.sizes.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("part", "token", "more", "sizes"),
    [
        (1.0, 255, 0.0, [256]),
        (0.1, 255, 0.0, [256]),
        (1.0, 255, 1e-12, [256, 300]),
        (0.999, 1, 0.0, [256, 300]),
    ],
)
def test_a_nucleus_is_looked_for_among_as_few_as_hold_it(
    part: float, token: int, more: float, sizes: list[int]
) -> None:
    """300 tokens, each a little less likely than the one before it: 256 are enough up to just the
    sum of their shares."""
    logits = torch.arange(300) * -1e-3
    chances = (logits - logits.logsumexp(0)).exp().double()
    before = chances[:256].cumsum(0) - chances[:256]
    with Looks() as looks:
        chosen(logits, 0.5, top_p=float(before[255] + part * chances[token]) + more)
    assert looks.sizes == sizes


def test_all_rows_are_looked_at_until_the_widest_nucleus_is_held() -> None:
    peaked = torch.zeros(5000)
    peaked[7] = 100.0
    samplers = [Given(SamplingParams(temperature=1.0, top_p=0.9), number=0.5) for _ in range(2)]
    with Looks() as looks:
        sample_tokens(torch.stack([peaked, peaked]), samplers)
        sample_tokens(torch.stack([peaked, torch.arange(5000) * -1e-5]), samplers)
    assert looks.sizes == [256, 256, 4096, 5000]


def test_a_share_is_compared_in_double_and_not_reached_by_itself() -> None:
    # of the likeliest token, in float32
    first = float((LOGITS[None].max() - LOGITS[None].logsumexp(-1)).exp())
    for share, token in ((first - 1e-12, 1), (first, 1), (first + 1e-12, 3)):
        assert chosen(LOGITS, 0.999, top_p=share) == token


def test_all_is_computed_where_the_logits_lie() -> None:
    with torch.device("meta"):
        assert sample_tokens(
            torch.stack([LOGITS] * 2),
            [Given(SamplingParams(temperature=1.0, top_p=p), number=0.6) for p in (1.0, 0.5)],
        ) == [2, 3]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, 1.0, [1]),
        (2, 1.0, [1, 3]),
        (4, 1.0, [1, 3, 2, 0]),
        (50, 1.0, [1, 3, 2, 0]),
        # the share is of what top_k leaves: 0.4 of 0.7 is 0.571, of 0.9 it is 0.444
        (2, 0.57, [1]),
        (2, 0.58, [1, 3]),
        (3, 0.45, [1, 3]),
        (3, 0.44, [1]),
    ],
)
def test_the_likeliest_k_by_hand(top_k: int, top_p: float, kept: list[int]) -> None:
    total, low = sum(SHARES[t] for t in kept), 0.0
    params = SamplingParams(temperature=1.0, top_p=top_p, top_k=top_k)
    for token in kept:
        high = low + SHARES[token] / total
        for draw in (low + 1e-6, high - 1e-6):
            assert sample_tokens(LOGITS[None], [Given(params, number=draw)]) == [token]
        low = high


def test_rows_with_and_without_top_k_share_a_batch() -> None:
    logits = torch.arange(5000) * -1e-5
    # 300 is beyond the first look; nearly equal shares, so that a draw of 0.999 takes the last one
    params = [
        SamplingParams(temperature=1.0, top_k=300),
        SamplingParams(temperature=1.0, top_p=0.5),
        SamplingParams(temperature=1.0, top_k=1),
        SamplingParams(temperature=1.0),
    ]
    chosen = sample_tokens(logits.repeat(4, 1), [Given(p, number=0.9999) for p in params])
    assert chosen[0] == 299
    assert 2430 < chosen[1] < 2480  # half of the mass, a little fewer than half of the tokens
    assert chosen[2] == 0
    assert chosen[3] > 4990
