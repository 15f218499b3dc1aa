"""Estimates of what models will be asked: counts, tokens and money, low, expected and high."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Estimate:
    """A low, an expected and a high value."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Estimate") -> "Estimate":
        low, high = self.low + other.low, self.high + other.high
        return Estimate(low, self.expected + other.expected, high)

    def __mul__(self, factor: "float | Estimate") -> "Estimate":
        # lows meet lows: the bounds of a product are the worst case, not a confidence interval
        by = factor if isinstance(factor, Estimate) else exactly(factor)
        return Estimate(self.low * by.low, self.expected * by.expected, self.high * by.high)

    def at_most(self, other: "Estimate") -> "Estimate":
        """The lower of the two lows, expected values and highs."""
        low, expected = min(self.low, other.low), min(self.expected, other.expected)
        return Estimate(low, expected, min(self.high, other.high))

    def __bool__(self) -> bool:
        return self.high > 0

    def __str__(self) -> str:
        return self._with_bounds(_short)

    def money(self) -> str:
        """US dollars with cents, or two digits where it is less."""
        return self._with_bounds(cents)

    def _with_bounds(self, show: Callable[[float], str]) -> str:
        low, expected, high = show(self.low), show(self.expected), show(self.high)
        return expected if low == high else f"{expected} ({low}-{high})"


def exactly(number: float) -> Estimate:
    """A range of one value."""
    return Estimate(number, number, number)


def cents(usd: float) -> str:
    """US dollars with cents, or with two significant digits where cents would show fewer."""
    if not usd or abs(usd) >= 0.0995:
        return f"{usd:.2f}"
    return f"{usd:.{1 - math.floor(math.log10(abs(usd)))}f}"


def dollars(usd: float) -> str:
    """US dollars with cents, or four digits where there is more behind the cents."""
    cents = f"{usd:.2f}"
    if abs(float(cents) - usd) < 1e-9:
        return cents
    digits = max(2, 3 - math.floor(math.log10(abs(usd))))
    shown = f"{usd:.{digits}f}"
    end = len(shown) - digits + 2
    return shown[:end] + shown[end:].rstrip("0")


def _short(number: float) -> str:
    # counts below ten thousand are shown whole
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:.0f}"


@dataclass(frozen=True)
class RequestEstimate:
    """So many requests, each with about so many prompt and completion tokens."""

    num: Estimate
    prompt_tokens: Estimate
    completion_tokens: Estimate
    usd: Estimate | None = None
    """US dollars of one, where the time of the answers is paid for and it is known."""

    def tokens(self) -> Estimate:
        """All tokens of all requests."""
        return self.num * (self.prompt_tokens + self.completion_tokens)


def text_tokens(text: str) -> int:
    """About how many tokens a text has: four characters a token."""
    return max(1, len(text) // 4)


def has_price(backend: Any) -> bool:
    """Whether what a language model answers is paid for, by the token or by the hour."""
    return bool(getattr(backend, "prices", None) or getattr(backend, "usd_per_hour", 0.0))


def price(calls: RequestEstimate, backend: Any) -> Estimate:
    """US dollars; nothing for a language model without prices."""
    # a local model or a script has no prices: its requests cost time, not money
    prices = getattr(backend, "prices", None)
    if prices is None:
        return calls.num * calls.usd if calls.usd else exactly(0)
    input_usd = float(prices.input_usd_per_million) / 1e6
    output_usd = float(prices.output_usd_per_million) / 1e6
    prompts, answers = calls.num * calls.prompt_tokens, calls.num * calls.completion_tokens
    # a batch API takes a share of them
    return (prompts * input_usd + answers * output_usd) * float(getattr(backend, "price_share", 1))


class Quote(NamedTuple):
    """What a stage is expected to give and to ask: rows, and requests by language model."""

    rows: Estimate
    requests: Sequence[tuple[str, RequestEstimate]] = ()
