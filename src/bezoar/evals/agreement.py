"""How far two raters agree (kappa) and how several models rank (Bradley-Terry), with intervals."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bezoar.chat.types import Chat
from bezoar.evals.stats import NONE, Floats, Score, percentiles, resamples


def cohen_kappa(name: str, first: Sequence[Hashable], second: Sequence[Hashable]) -> Score:
    """Cohen's kappa (1960): (observed - chance agreement) / (1 - chance agreement)."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    left, right = ([numbers[label] for label in labels] for labels in (first, second))
    return _kappa(name, left, right, 1 - np.eye(len(numbers)))


def quadratic_kappa(name: str, first: Sequence[int], second: Sequence[int]) -> Score:
    """Kappa of ordered ratings, a disagreement weighs by its squared distance (Cohen 1968)."""
    lowest, highest = min([*first, *second]), max([*first, *second])
    levels = np.arange(highest - lowest + 1, dtype=np.float64)
    left, right = ([rating - lowest for rating in ratings] for ratings in (first, second))
    return _kappa(name, left, right, (levels[:, None] - levels) ** 2)


def ratings_agreement(rows: Sequence[Chat]) -> list[Score]:
    """By attribute, kappa of the first two of each row's `meta["ratings"]`; other rows failed."""
    pairs = [pair for row in rows if (pair := _first_two(row.meta.get("ratings")))]
    scores = []
    for name in pairs[0][0] if pairs else ():
        if all(name in rating for pair in pairs for rating in pair):
            first, second = ([pair[which][name] for pair in pairs] for which in (0, 1))
            scores.append(quadratic_kappa(f"kappa/{name}", first, second))
    return [replace(score, num_failed=len(rows) - len(pairs)) for score in scores]


def _first_two(ratings: Any) -> list[dict[str, int]]:
    """The first two ratings, or none: a row from elsewhere may hold anything under that name."""
    if not isinstance(ratings, list) or len(ratings) < 2:
        return []
    for rating in ratings[:2]:
        if not isinstance(rating, dict):
            return []
        if not all(type(level) is int and 0 <= level <= 100 for level in rating.values()):
            return []
    return ratings[:2]


def _kappa(name: str, first: list[int], second: list[int], cost: Floats) -> Score:
    """1 - observed cost / cost expected by chance, of `cost` [labels, labels]; resamples items."""
    if len(first) != len(second) or not first:
        raise ValueError("ratings must be of one length and not empty")
    a, b, size = np.array(first), np.array(second), len(cost)

    def kappa(picks: Any) -> float:
        # [labels, labels]: how often the two raters gave each pair of labels
        table = np.zeros((size, size))
        np.add.at(table, (a[picks], b[picks]), 1.0)
        table /= table.sum()
        chance = float((np.outer(table.sum(1), table.sum(0)) * cost).sum())
        return 1 - float((table * cost).sum()) / chance if chance else math.nan

    value = kappa(slice(None))
    values = np.array([kappa(picks) for picks in resamples(len(a))])
    # a resample with one label only has no kappa
    values = values[~np.isnan(values)]
    if math.isnan(value) or len(a) < 2 or not len(values):
        return Score(name, None if math.isnan(value) else value, None, None, len(a))
    return Score(name, value, *percentiles(values), len(a))


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
