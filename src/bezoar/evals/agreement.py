"""How far two raters agree, and how several models rank: kappa and Bradley-Terry, with intervals.
Needs numpy alone."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bezoar.chat.types import Chat
from bezoar.evals.stats import NONE, Floats, Score, percentiles, resamples


def cohen_kappa(name: str, first: Sequence[Hashable], second: Sequence[Hashable]) -> Score:
    """Cohen's kappa (1960), (observed - chance agreement) / (1 - chance agreement); the interval by
    bootstrap over items."""
    labels = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    return _kappa(
        name, [labels[x] for x in first], [labels[x] for x in second], 1 - np.eye(len(labels))
    )


def quadratic_kappa(name: str, first: Sequence[int], second: Sequence[int]) -> Score:
    """Kappa for ordered ratings, disagreements weighted by their squared distance (Cohen 1968)."""
    lowest, highest = min([*first, *second]), max([*first, *second])
    steps = np.arange(highest - lowest + 1, dtype=np.float64)
    return _kappa(
        name,
        [x - lowest for x in first],
        [x - lowest for x in second],
        (steps[:, None] - steps) ** 2,
    )


def ratings_agreement(rows: Sequence[Chat]) -> list[Score]:
    """By attribute, quadratic-weighted kappa between the first and the second rating of every row
    that has two in `meta["ratings"]`: how far a judge that is asked again agrees with itself. Rows
    without two count as failed."""
    two = [pair for row in rows if (pair := _two(row.meta.get("ratings")))]
    names = (
        [name for name in two[0][0] if all(name in rating for pair in two for rating in pair)]
        if two
        else []
    )
    scores = [
        quadratic_kappa(f"kappa/{name}", [a[name] for a, _ in two], [b[name] for _, b in two])
        for name in names
    ]
    return [replace(score, num_failed=len(rows) - len(two)) for score in scores]


def _two(ratings: Any) -> list[dict[str, int]]:
    """The first two of a row's ratings, or none: a row of anyone's may hold anything under that
    name."""
    two = ratings[:2] if isinstance(ratings, list) else []
    good = all(
        isinstance(rating, dict) and all(type(v) is int and 0 <= v <= 100 for v in rating.values())
        for rating in two
    )
    return two if good and len(two) == 2 else []


def _kappa(name: str, first: list[int], second: list[int], cost: Floats) -> Score:
    if len(first) != len(second) or not first:
        raise ValueError("ratings must be of one length and not empty")
    a, b, size = np.array(first), np.array(second), len(cost)

    def kappa(picks: Any) -> float:
        table = np.zeros((size, size))
        np.add.at(table, (a[picks], b[picks]), 1.0)
        table /= table.sum()
        chance = float((np.outer(table.sum(1), table.sum(0)) * cost).sum())
        return 1 - float((table * cost).sum()) / chance if chance else math.nan

    value = kappa(slice(None))
    values = np.array([kappa(picks) for picks in resamples(len(a))])
    values = values[~np.isnan(values)]
    if math.isnan(value) or len(a) < 2 or not len(values):
        return Score(name, None if math.isnan(value) else value, None, None, len(a))
    return Score(name, value, *percentiles(values), len(a))


def bradley_terry(
    games: Sequence[tuple[str, str, str, float]], *, ties: float = 0.1, num_resamples: int = 500
) -> list[Score]:
    """Strengths of several models, best first, from (prompt, model A, model B, share of the win
    that A had: 1, 0.5, 0).

    P(A beats B) = 1 / (1 + exp(s_B - s_A)) (Bradley and Terry 1952); the strengths sum to 0 and are
    fitted by the minorise-maximise steps of Hunter 2004. Our choice: `ties` of a tied game are
    added between every two models that met, so that a model that won all its games has a finite
    strength. Intervals by bootstrap over prompts.
    """
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
    value = _strengths(total + prior)
    picks = resamples(len(prompts), num_resamples)
    drawn = np.array([_strengths(wins[rows].sum(0) + prior) for rows in picks])
    bounds = [percentiles(column) if len(prompts) > 1 else NONE for column in drawn.T]
    return [
        Score(names[i], float(value[i]), bounds[i][0], bounds[i][1], len(prompts))
        for i in np.argsort(-value)
    ]


def _joined(met: Floats) -> bool:
    """True when every model can be reached from the first over games."""
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
        share = (games / (strength[:, None] + strength)).sum(1)
        new = won / share
        new /= math.exp(float(np.log(new).mean()))
        done = float(np.abs(np.log(new / strength)).max()) < 1e-9
        strength = new
        if done:
            break
    return np.asarray(np.log(strength), dtype=np.float64)
