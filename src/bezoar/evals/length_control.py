"""AlpacaEval 2's length-controlled win rate (arXiv 2404.04475) from a file of annotations.

P(the model wins x) = sigmoid(a tanh(gap_x / s) + b difficulty_x + c), gap the length of the
baseline's answer less that of the model's in characters, s its standard deviation; the win rate is
the mean at gap 0. The authors' `length_controlled_v1`: a, b and c are fitted with an L1 penalty,
chosen among ten by 5-fold cross-validation, together with their annotations of length-gamed
baselines (`df_gamed.csv`), which have no c, weigh 0.2 as much and bring each instruction's
difficulty.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bezoar.data.rows import RowOrigin, column, read_file
from bezoar.errors import DataError
from bezoar.evals.stats import Floats, Score, percentiles, resamples
from bezoar.io import Row

NAME = "win rate/length-controlled (AlpacaEval 2)"
UNREGULARISED = "win rate/by AlpacaEval's GLM, without its regularisation rows and difficulties"
GAMED_WEIGHT = 0.2 / 2  # two gamed baselines stand in the file
NUM_FOLDS = 5
PENALTIES = np.logspace(-4, 4, 10)
"""Scikit-learn's C, which the authors' code tries: higher is less penalty."""
MOST_STEPS = 100
NUM_REFITS = 200


class Regularisation(NamedTuple):
    """The rows of df_gamed.csv: features [N, 3] and preferences [N] from 0 to 1."""

    features: Floats
    values: Floats
    difficulty: Mapping[int, float]
    """By the number of the instruction."""


class Annotation(NamedTuple):
    """A judged answer: the number of its instruction, and the model's share of the win."""

    id: str
    number: int
    gap: float
    value: float | None


def read_regularisation(path: Path) -> Regularisation:
    """AlpacaEval's df_gamed.csv. DataError for a file of other columns."""
    features, values, difficulty = [], [], dict[int, float]()
    for at, row in read_file(path, path.stem):
        index = int(_number(row, "index", at))
        is_model = str(column(row, "not_gamed_baseline", at)).lower() == "true"
        hard = _number(row, "instruction_difficulty", at)
        features.append((np.tanh(_number(row, "std_delta_len", at)), hard, float(is_model)))
        values.append(_number(row, "preference", at))
        difficulty.setdefault(index, hard)
    return Regularisation(np.array(features), np.array(values), difficulty)


def _number(row: Row, name: str, at: RowOrigin) -> float:
    value = column(row, name, at)
    try:
        return float(value) if value not in ("", None) else float("nan")
    except (TypeError, ValueError):
        raise at.wrong(f"the column {name!r} is {value!r}, not a number; mend it.") from None


def length_controlled_win_rate(
    annotations: Sequence[Annotation], gamed: Regularisation | None, *, is_baseline: bool = False
) -> Score:
    """The score, named `NAME` only with the authors' rows; its interval refits on resampled rows.

    A model against itself has one half, as in the authors' code. DataError for an instruction whose
    difficulty is not known.
    """
    name = NAME if gamed else UNREGULARISED
    known = [i for i, a in enumerate(annotations) if a.value is not None]
    num_failed = len(annotations) - len(known)
    if is_baseline:
        why = "by definition: the model is the baseline"
        return Score(name, 0.5, None, None, len(known), num_failed, reason=why)
    if len(known) < NUM_FOLDS:
        why = f"fewer than {NUM_FOLDS} annotations for its cross-validation"
        return Score(name, None, None, None, 0, num_failed, reason=why if known else "")
    # 1) the model's rows; s over all of them, those without a preference too
    gaps = np.array([a.gap for a in annotations])
    spread = gaps.std(ddof=1)
    pull = np.tanh(gaps / spread) if spread else np.zeros(len(gaps))
    hard = np.array([_difficulty(a, gamed) for a in annotations])
    own = np.stack([pull, hard, np.ones(len(gaps))], axis=1)  # [N, 3]
    values = np.array([np.nan if a.value is None else a.value for a in annotations])
    equal_lengths = own * (0.0, 1.0, 1.0)
    # 2) a row counts as often as it is drawn, the authors' rows always; those without a preference
    #    train nothing
    features, targets, sizes = own[known], values[known], np.ones(len(known))
    if gamed is None:
        features, equal_lengths = features[:, [0, 2]], equal_lengths[:, [0, 2]]
    else:
        there = ~np.isnan(gamed.values)
        features = np.concatenate([features, gamed.features[there]])
        targets = np.concatenate([targets, gamed.values[there]])
        sizes = np.concatenate([sizes, np.full(int(there.sum()), GAMED_WEIGHT)])
    # 3) choose the penalty, fit, and predict every instruction at equal lengths
    penalty = _chosen_penalty(features, targets, sizes)
    picks = resamples(len(known), NUM_REFITS)
    drawn = np.tile(sizes, (1 + NUM_REFITS, 1))  # [1 + refits, N]; the first is that of all rows
    for refit, rows in enumerate(picks, 1):
        drawn[refit, : len(known)] = np.bincount(rows, minlength=len(known))
    weights = fit_l1(features, targets, drawn, np.full(len(drawn), penalty))
    chances = _sigmoid(equal_lengths @ weights.T)  # [instructions, 1 + refits]
    # 4) the interval, at the same penalty
    refits = [float(chances[known][rows, 1 + i].mean()) for i, rows in enumerate(picks)]
    value = float(chances[:, 0].mean())
    return Score(name, value, *percentiles(np.array(refits)), len(known), num_failed)


def _difficulty(annotation: Annotation, gamed: Regularisation | None) -> float:
    if gamed is None:
        return 0.0
    if annotation.number not in gamed.difficulty:
        raise DataError(
            f"{annotation.id}: the regularisation rows know no instruction {annotation.number};"
            " they belong to AlpacaEval's own instructions, in their order."
        )
    return gamed.difficulty[annotation.number]


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _chosen_penalty(features: Floats, targets: Floats, sizes: Floats) -> float:
    """Of ten, the one whose fits predict held-out rows best; the first of equal ones."""
    # fold of each row: as GroupKFold deals groups of one size, from the last one on
    fold = np.arange(len(targets))[::-1] % NUM_FOLDS
    held_out = fold == np.arange(NUM_FOLDS)[:, None]  # [folds, N]
    trained = np.tile(np.where(held_out, 0.0, sizes), (len(PENALTIES), 1))
    weights = fit_l1(features, targets, trained, np.repeat(PENALTIES, NUM_FOLDS))
    chances = np.clip(_sigmoid(weights @ features.T), 1e-15, 1 - 1e-15)  # [penalties folds, N]
    losses = -sizes * (targets * np.log(chances) + (1 - targets) * np.log(1 - chances))
    every = losses.reshape(len(PENALTIES), NUM_FOLDS, -1)
    means = (every * held_out).sum(-1) / held_out.sum(-1)  # [penalties, folds]
    return float(PENALTIES[means.mean(1).argmin()])


def fit_l1(features: Floats, targets: Floats, sizes: Floats, penalties: Floats) -> Floats:
    """Weights [F, K] of F logistic regressions on [N, K] and targets [N] from 0 to 1.

    Each minimises |w|_1 + C sum_n size_n loss_n, with its own sizes [F, N] and C [F], by Newton
    steps of its own: the quadratic model with the penalty is solved coordinate by coordinate.
    """
    num = features.shape[1]
    weights, products = np.zeros((len(sizes), num)), features[:, :, None] * features[:, None, :]
    scaled = penalties[:, None] * sizes

    def cost(trial: Floats) -> Floats:
        logits = trial @ features.T
        losses = np.logaddexp(0, logits) - targets * logits
        return np.asarray(np.abs(trial).sum(1) + (scaled * losses).sum(1))

    now = cost(weights)
    for _ in range(MOST_STEPS):
        chances = _sigmoid(weights @ features.T)  # [F, N]
        slope = (scaled * (chances - targets)) @ features  # [F, K]
        curve = np.tensordot(scaled * chances * (1 - chances), products, axes=1)  # [F, K, K]
        curve += 1e-12 * np.eye(num)
        step = np.zeros_like(weights)
        for _ in range(MOST_STEPS):
            before = step.copy()
            for k in range(num):
                rest = slope[:, k] + (curve[:, k] * step).sum(1) - curve[:, k, k] * step[:, k]
                centre = weights[:, k] - rest / curve[:, k, k]
                shrunk = np.sign(centre) * np.maximum(np.abs(centre) - 1 / curve[:, k, k], 0)
                step[:, k] = shrunk - weights[:, k]
            if np.abs(step - before).max() < 1e-12:
                break
        # shorter steps where the quadratic model was too hopeful
        length = np.ones(len(weights))
        for _ in range(30):
            trial = weights + length[:, None] * step
            after = cost(trial)
            worse = after > now + 1e-12 * np.abs(now)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        weights, now = trial, after
        if np.abs(length[:, None] * step).max() < 1e-9:
            break
    return weights
