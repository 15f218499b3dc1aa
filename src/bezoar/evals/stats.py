"""Numbers with their uncertainty: intervals and paired tests. Needs only numpy.

Resampling draws items (questions, prompts), never the several judgements of one item, with a fixed
seed: the same values give the same interval. `None` stands for a number that is not defined.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_RESAMPLES = 5000
SEED = 20240412
Interval = tuple[float | None, float | None]
NONE: Interval = (None, None)
CONFIDENCE = 0.95
NOT_DISTINGUISHABLE = "not distinguishable"
ONLY_INTERVAL = "only its interval excludes 0"


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval over `n` items; `num_failed` more gave no value.

    `reason` says why there is no value, or no interval: half a sentence in place of the number.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    num_failed: int = 0
    group: str = ""
    higher_is_better: bool = True
    reason: str = ""

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Score":
        """The inverse of `to_dict`."""
        return cls(**row)

    @property
    def failure_rate(self) -> float:
        """Failed items over all items."""
        total = self.n + self.num_failed
        return self.num_failed / total if total else 0.0

    @property
    def in_place(self) -> str:
        """The first words of the reason, which fit where a number would stand."""
        return self.reason.partition(":")[0]

    @property
    def by_definition(self) -> bool:
        """Whether the value was not measured: a model over itself."""
        return self.reason.startswith("by definition")

    def __str__(self) -> str:
        if self.value is None:
            why = f": {self.reason}" if self.reason else ""
            return f"{self.name} none (n {self.n}, {self.num_failed} failed{why})"
        interval = "no interval"
        if self.low is not None and self.high is not None:
            interval = f"{self.low:.3f} to {self.high:.3f}"
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return f"{self.name} {self.value:.3f} [{interval}] (n {self.n}{failed})"


def score(name: str, values: Sequence[float | None], group: str = "") -> Score:
    """The mean, None for a failed item. Wilson's interval if all are 0 or 1, else the bootstrap."""
    kept = [float(v) for v in values if v is not None]
    num_failed = len(values) - len(kept)
    if not kept:
        return Score(name, None, None, None, 0, num_failed, group)
    mean = math.fsum(kept) / len(kept)
    if set(kept) <= {0.0, 1.0}:
        # the bootstrap gives an interval of width 0 if all values are equal
        low, high = wilson(sum(v == 1.0 for v in kept), len(kept))
        return Score(name, mean, low, high, len(kept), num_failed, group)
    interval = bootstrap_mean(kept) or NONE
    return Score(name, mean, *interval, len(kept), num_failed, group)


def clustered_score(
    name: str, groups: Sequence[Sequence[float | None]], group: str = "", *, share: bool = False
) -> Score:
    """The mean over the values of all groups (two turns of a question, say).

    The interval resamples groups; `n` and `num_failed` count values. Resampling learns nothing from
    a `share` whose values are all 0 or all 1: that has Wilson's interval over the groups.
    """
    kept = [[float(v) for v in values if v is not None] for values in groups]
    num_failed = sum(v is None for values in groups for v in values)
    sums = np.array([math.fsum(values) for values in kept if values])
    counts = np.array([float(len(values)) for values in kept if values])
    if not len(sums):
        return Score(name, None, None, None, 0, num_failed, group)
    # the mean over values, not over groups: a long group counts more, as it has more items
    value, n = float(sums.sum() / counts.sum()), int(counts.sum())
    interval = NONE
    if len(sums) > 1 and share and value in (0.0, 1.0):
        interval = wilson(round(value * len(sums)), len(sums))
    elif len(sums) > 1:
        picks = resamples(len(sums))  # [resamples, groups]
        interval = percentiles(sums[picks].sum(axis=1) / counts[picks].sum(axis=1))
    return Score(name, value, *interval, n, num_failed, group)


def wilson(num_hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for `num_hits` of `n` (E. B. Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_hits / n
    # outside [0, 1] only by rounding; at no hit and at all hits the bounds are exact
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = max(0.0, centre - half) if num_hits else 0.0
    high = min(1.0, centre + half) if num_hits < n else 1.0
    return low, high


def resamples(n: int, num: int = NUM_RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """[num, n] indices drawn with replacement; the same for the same arguments."""
    return np.random.default_rng(seed).integers(0, n, (num, n))


def percentiles(values: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central interval of a sample."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    # the draws are the same in parts as at once
    array = np.asarray(values)
    rng, means = np.random.default_rng(SEED), []
    rows = max(1, 4_000_000 // len(array))  # memory: 32 MB of indices at a time
    for start in range(0, NUM_RESAMPLES, rows):
        picks = rng.integers(0, len(array), (min(rows, NUM_RESAMPLES - start), len(array)))
        means.append(array[picks].mean(axis=1))
    return percentiles(np.concatenate(means))


@dataclass(frozen=True)
class Difference:
    """Second minus first on the same `n` items, with the two-sided p of the sign-flip test.

    Without items (`n` is 0, `p` None) two scores differ where their intervals do not meet.
    """

    name: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    num_unpaired: int = 0
    own_p: float | None = None
    """p before the correction for `num_tests`; None if there was none."""
    num_tests: int = 1
    least_n: int | None = 0
    """Items below which p cannot fall below 5 %; None if no number of items is enough."""
    higher_is_better: bool = True
    intervals_apart: bool = False
    spread: float = 0.0
    """Standard deviation of the items' differences; 0 where all of them are equal."""

    @property
    def same_on_every_item(self) -> bool:
        """Whether every paired difference is 0."""
        return self.n > 0 and self.spread == 0 and self.low == self.high == 0

    @property
    def distinguishable(self) -> bool:
        """Whether p is below 5 %."""
        return self.intervals_apart if self.p is None else self.p < 1 - CONFIDENCE

    @property
    def p_in_words(self) -> str:
        """ "p = 0.059 corrected for 4 comparisons"; without a correction p alone."""
        if self.p is None or self.own_p is None or self.p == self.own_p:
            return "" if self.p is None else f"p = {self.p:.2g}"
        return f"p = {self.p:.2g} corrected for {self.num_tests} comparisons"

    @property
    def verdict(self) -> str:
        """ "better" or "worse" (the second) where p < 5 %, else why nothing can be told."""
        if self.distinguishable:
            return "better" if (self.difference > 0) == self.higher_is_better else "worse"
        if self.least_n is None:
            return f"too many comparisons to tell ({self.num_tests})"
        if self.p is not None and self.n < self.least_n:
            return f"too few items to tell (n = {self.n}; at least {self.least_n} are needed)"
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return NOT_DISTINGUISHABLE
        return f"{ONLY_INTERVAL} ({self.p_in_words})"


def paired(
    name: str, first: Sequence[float], second: Sequence[float], num_unpaired: int = 0
) -> Difference:
    """Compare two models on the same items. ValueError for unequal lengths."""
    if len(first) != len(second) or not first:
        raise ValueError("paired values must be of one length and not empty")
    changes = np.subtract(second, first, dtype=np.float64)
    interval = bootstrap_mean(changes.tolist()) or NONE
    means = (math.fsum(first) / len(first), math.fsum(second) / len(second))
    mean, p = float(changes.mean()), sign_flip(changes)
    # equal differences are not quite equal once they are rounded
    largest = float(np.abs((first, second)).max())
    spread = float(changes.std()) if np.ptp(changes) > 1e-12 * largest else 0.0
    return Difference(name, *means, mean, *interval, p, len(changes), num_unpaired, spread=spread)


def sign_flip(changes: Floats, num: int = 10_000) -> float:
    """Two-sided p of a mean of 0 if a coin decides the sign of every paired difference.

    All sign patterns of up to 14 differences that are not 0; else `num` random ones and the one
    seen (Phipson and Smyth 2010), so that p is never 0.
    """
    moving = changes[changes != 0]
    if not len(moving):
        return 1.0
    # a little less than seen, so that the pattern itself counts whatever the rounding
    seen = abs(float(moving.sum())) * (1 - 1e-12)
    if len(moving) <= 14:
        # [patterns, differences]: at most 16,384 patterns
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moving))))
        return float((np.abs(signs @ moving) >= seen).mean())
    rng, hits, done = np.random.default_rng(SEED), 0, 0
    while done < num:
        rows = min(num - done, max(1, 4_000_000 // len(moving)))
        signs = rng.integers(0, 2, (rows, len(moving))) * 2.0 - 1
        hits += int((np.abs(signs @ moving) >= seen).sum())
        done += rows
    return (hits + 1) / (num + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p values, in their order."""
    # from the smallest: that one is multiplied by their number, the next by one less
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    out, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        # a larger p never becomes the smaller one
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        out[index] = highest
    return out


def least_items(others: Sequence[float]) -> int | None:
    """The fewest items with which a test among tests of these p values can fall below 5 %.

    The smallest p of n items is that of n equal differences; None if no n is enough.
    """
    # sign_flip counts all patterns of up to 14 items; random ones go no lower with more
    sizes = range(1, 16)
    return next((n for n in sizes if holm([_smallest_p(n), *others])[0] < 1 - CONFIDENCE), None)


@cache
def _smallest_p(n: int) -> float:
    return sign_flip(np.ones(n))


def apart(first: Score, second: Score) -> bool:
    """Whether both have an interval and the two do not meet."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return False
    return first.low > second.high or second.low > first.high
