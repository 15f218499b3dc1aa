"""Numbers with their uncertainty: intervals, paired tests, agreement, rankings. Needs numpy alone.

Resampling is over items (questions, prompts), never over the several judgements of one item, with a
fixed seed: the same values give the same interval. `None` stands where a number is not defined.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_RESAMPLES = 5000
SEED = 20240412
NONE: tuple[None, None] = (None, None)
CONFIDENCE = 0.95
NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval over `n` items; `num_failed` items gave no value and are in
    neither."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    num_failed: int = 0
    group: str = ""
    higher_is_better: bool = True

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, object]) -> "Score":
        """The inverse of `to_dict`."""
        return cls(**row)  # type: ignore[arg-type]

    @property
    def failure_rate(self) -> float:
        """Failed items over all items."""
        total = self.n + self.num_failed
        return self.num_failed / total if total else 0.0

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} none (n {self.n}, {self.num_failed} failed)"
        inside = (
            f"{self.low:.3f} to {self.high:.3f}"
            if self.low is not None and self.high is not None
            else "no interval"
        )
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return f"{self.name} {self.value:.3f} [{inside}] (n {self.n}{failed})"


def score(name: str, values: Sequence[float | None], group: str = "") -> Score:
    """The mean of `values`, one an item, `None` for a failed one. Wilson's interval where all are 0
    or 1, else bootstrap."""
    kept = [float(v) for v in values if v is not None]
    num_failed = len(values) - len(kept)
    if not kept:
        return Score(name, None, None, None, 0, num_failed, group)
    mean = math.fsum(kept) / len(kept)
    if set(kept) <= {0.0, 1.0}:
        low, high = wilson(sum(v == 1.0 for v in kept), len(kept))
        return Score(name, mean, low, high, len(kept), num_failed, group)
    bounds: tuple[float | None, float | None] = bootstrap_mean(kept) or NONE
    return Score(name, mean, bounds[0], bounds[1], len(kept), num_failed, group)


def clustered_score(
    name: str, groups: Sequence[Sequence[float | None]], group: str = "", *, share: bool = False
) -> Score:
    """The mean over all values of all groups (two turns of a question, say), the interval by
    resampling groups.

    `n` and `num_failed` count values, not groups. A `share` of values 0 and 1 that are all equal,
    from which resampling learns nothing, has Wilson's interval over groups.
    """
    kept = [[float(v) for v in values if v is not None] for values in groups]
    num_failed = sum(v is None for values in groups for v in values)
    sums = np.array([math.fsum(values) for values in kept if values])
    counts = np.array([float(len(values)) for values in kept if values])
    if not len(sums):
        return Score(name, None, None, None, 0, num_failed, group)
    value = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return Score(name, value, None, None, int(counts.sum()), num_failed, group)
    if share and value in (0.0, 1.0):
        return Score(
            name,
            value,
            *wilson(round(value * len(sums)), len(sums)),
            int(counts.sum()),
            num_failed,
            group,
        )
    picks = resamples(len(sums))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return Score(name, value, *percentiles(means), int(counts.sum()), num_failed, group)


def wilson(num_hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for `num_hits` of `n` (E. B. Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (max(0.0, centre - half) if num_hits else 0.0), (
        min(1.0, centre + half) if num_hits < n else 1.0
    )


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
    array = np.asarray(values)
    rng, means = np.random.default_rng(SEED), []
    rows = max(1, 4_000_000 // len(array))  # memory: 32 MB of indices at a time
    for start in range(0, NUM_RESAMPLES, rows):
        picks = rng.integers(0, len(array), (min(rows, NUM_RESAMPLES - start), len(array)))
        means.append(array[picks].mean(axis=1))
    return percentiles(np.concatenate(means))


@dataclass(frozen=True)
class Difference:
    """Second minus first on the same `n` items, its 95 % interval, and the two-sided p of the
    sign-flip test."""

    name: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float
    n: int
    num_unpaired: int = 0

    @property
    def verdict(self) -> str:
        """ "better" or "worse" (the second) where p < 0.05, else "not distinguishable"."""
        if self.p >= 1 - CONFIDENCE:
            return NOT_DISTINGUISHABLE
        return "better" if self.difference > 0 else "worse"


def paired(
    name: str, first: Sequence[float], second: Sequence[float], num_unpaired: int = 0
) -> Difference:
    """Compare two models on the same items: paired bootstrap interval, permutation p. ValueError
    for unequal lengths."""
    if len(first) != len(second) or not first:
        raise ValueError("paired values must be of one length and not empty")
    gaps = np.subtract(second, first, dtype=np.float64)
    low, high = bootstrap_mean(gaps.tolist()) or NONE
    means = (math.fsum(first) / len(first), math.fsum(second) / len(second))
    return Difference(
        name, *means, float(gaps.mean()), low, high, sign_flip(gaps), len(gaps), num_unpaired
    )


def sign_flip(gaps: Floats, num: int = 10_000) -> float:
    """Two-sided p of mean difference 0 when the sign of every paired difference is a coin's.

    All sign patterns for up to 14 non-zero differences, else `num` random ones with the seen one
    counted in (Phipson and Smyth 2010), so that p is never 0.
    """
    moving = gaps[gaps != 0]
    if not len(moving):
        return 1.0
    seen = abs(float(moving.sum())) * (1 - 1e-12)
    if len(moving) <= 14:
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
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    out, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        out[index] = highest
    return out


def detectable(n: int, spread: float = math.sqrt(0.5), power: float = 0.8) -> float:
    """The smallest true difference of two models that a paired test over `n` items finds with
    probability `power`.

    (z of 97.5 % + z of power) * spread / sqrt(n); `spread` is the standard deviation of one item's
    difference. The default is that of two independent yes-or-no answers at 50 %, the widest case
    for models that do not disagree on purpose.
    """
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + CONFIDENCE / 2) + normal.inv_cdf(power)) * spread / math.sqrt(n)
