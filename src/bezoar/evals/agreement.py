"""How far two raters agree (kappa) and how several models rank (Bradley-Terry), with intervals."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bezoar.chat.ratings import Ratings
from bezoar.evals.stats import NONE, NUM_RESAMPLES, SEED, Floats, Score, percentiles, resamples


def cohen_kappa(name: str, first: Sequence[Hashable], second: Sequence[Hashable]) -> Score:
    """Cohen's kappa (1960): (observed - chance agreement) / (1 - chance agreement)."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    counts = Counter((numbers[a], numbers[b]) for a, b in zip(first, second, strict=True))
    return _kappa(name, counts, 1 - np.eye(len(numbers)))


def quadratic_kappa(name: str, counts: Mapping[tuple[int, int], int]) -> Score:
    """Kappa of ordered ratings, a disagreement weighs by its squared distance (Cohen 1968).
    `counts`: how often the two raters gave each two levels."""
    seen = [level for pair in counts for level in pair]
    levels = np.arange(max(seen) - min(seen) + 1, dtype=np.float64)
    shifted = {(a - min(seen), b - min(seen)): num for (a, b), num in counts.items()}
    return _kappa(name, shifted, (levels[:, None] - levels) ** 2)


def ratings_agreement(ratings: Ratings) -> list[Score]:
    """By attribute, kappa of the first two ratings of each row; rows without two failed."""
    num_failed = ratings.num_rows - ratings.num_rated
    scores = [quadratic_kappa(f"kappa/{name}", table) for name, table in ratings.tables.items()]
    return [replace(score, num_failed=num_failed) for score in scores]


def _kappa(name: str, counts: Mapping[tuple[int, int], int], cost: Floats) -> Score:
    """1 - observed cost / cost expected by chance, of `cost` [labels, labels]; resamples items."""
    if not counts:
        raise ValueError("ratings must not be empty")
    table = np.zeros(cost.shape)
    for pair, num in counts.items():
        table[pair] = num
    n = int(table.sum())

    def kappa(shares: Floats) -> float:
        chance = float((np.outer(shares.sum(1), shares.sum(0)) * cost).sum())
        return 1 - float((shares * cost).sum()) / chance if chance else math.nan

    value, rng = kappa(table / n), np.random.default_rng(SEED)
    # items of a pair are alike, so what is drawn is how often each pair stands in a resample
    drawn = (rng.multinomial(n, table.ravel() / n) for _ in range(NUM_RESAMPLES))
    values = np.array([kappa(num.reshape(table.shape) / n) for num in drawn])
    # a resample with one label only has no kappa
    values = values[~np.isnan(values)]
    if math.isnan(value) or n < 2 or not len(values):
        return Score(name, None if math.isnan(value) else value, None, None, n)
    return Score(name, value, *percentiles(values), n)


def bradley_terry(
    games: Sequence[tuple[str, str, str, float]], *, ties: float = 0.1, num_resamples: int = 500
) -> list[Score]:
    """Strengths of several models, best first; a game is (prompt, model A, model B, A's share of
    the win: 1, 0.5 or 0).

    P(A beats B) = 1 / (1 + exp(s_B - s_A)) (Bradley and Terry 1952); the strengths sum to 0 and are
    fitted by the minorise-maximise steps of Hunter 2004. Intervals resample prompts. Our choice:
    `ties` of a tied game between every two models that met keep a model's strength finite.
    """
    # 1) the wins of every prompt, [prompts, models, models], row beats column
    names = sorted({name for _, a, b, _ in games for name in (a, b)})
    prompts = {p: i for i, p in enumerate(dict.fromkeys(p for p, *_ in games))}
    index = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for prompt, a, b, share in games:
        wins[prompts[prompt], index[a], index[b]] += share
        wins[prompts[prompt], index[b], index[a]] += 1 - share
    total = wins.sum(0)
    prior = ((total + total.T) > 0) * (ties / 2)
    if not _joined(total + total.T):
        raise ValueError("the models fall into groups that never met, so they have no common scale")
    # 2) strengths of all prompts, then of resampled ones; the tie is added once to each sample
    value = _strengths(total + prior)
    picks = resamples(len(prompts), num_resamples)
    drawn = np.array([_strengths(wins[rows].sum(0) + prior) for rows in picks])
    bounds = [percentiles(column) if len(prompts) > 1 else NONE for column in drawn.T]
    return [
        Score(names[i], float(value[i]), bounds[i][0], bounds[i][1], len(prompts))
        for i in np.argsort(-value)
    ]


def _joined(met: Floats) -> bool:
    """Whether every model can be reached from the first over games."""
    reached = np.arange(len(met)) == 0
    for _ in range(len(met)):
        reached = reached | ((met > 0) @ reached)
    return bool(reached.all())


def _strengths(wins: Floats) -> Floats:
    """Log strengths with mean 0 of `wins` [models, models], row beats column."""
    games = wins + wins.T
    won = wins.sum(1)
    strength = np.ones(len(wins))
    for _ in range(10_000):
        # wins over the chances that the games gave
        share = (games / (strength[:, None] + strength)).sum(1)
        new = won / share
        # only ratios are determined: the logarithms are kept at mean 0
        new /= math.exp(float(np.log(new).mean()))
        done = float(np.abs(np.log(new / strength)).max()) < 1e-9
        strength = new
        if done:
            break
    return np.asarray(np.log(strength), dtype=np.float64)
