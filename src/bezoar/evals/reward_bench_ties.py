"""The subset Ties of RewardBench 2 (arXiv 2506.01937): accuracies and margins.

It has pairs of prompts: `ref:N` with one correct answer, `tied:N` with several.
"""

from collections.abc import Sequence

import numpy as np

from bezoar.evals.section import item_rows
from bezoar.evals.stats import NONE, Floats, Score, percentiles, resamples
from bezoar.io import Row

Scores = Sequence[float] | None
"""Those of a prompt's answers, the correct ones first; None where one could not be scored."""

WEIGHTS = (0.30, 0.30, 0.20, 0.20, 0.01)
"""Their sum, 1.01, is the highest score."""


def ties(name: str, prompts: Sequence[tuple[str, int, Scores]]) -> tuple[Score, list[Row], Floats]:
    """The score of prompts (id, number of correct answers, scores); its value by number, None where
    one of the two prompts has no scores; and resampled scores.

    With a the lowest score of a correct answer less the highest of a wrong one, and s the highest
    less the lowest of the correct ones: 0.30 of tied prompts with a > 0, 0.30 of ref prompts with
    a > 0, 0.20 of pairs with a_tied > s, 0.20 of pairs with min(a_ref, a_tied) > s, and 0.01 of the
    mean of tanh(min(a_ref, a_tied) / s - 1), where 0 / 0 counts as 0.
    """
    # 1) prompts of one id are one, as in the authors' code
    samples: dict[tuple[str, int], list[tuple[bool, float]]] = {}
    for name_of, num_correct, scores in prompts:
        kind, _, digits = name_of.partition(":")
        for i, value in enumerate(scores or ()):
            samples.setdefault((kind, int(digits)), []).append((i < num_correct, value))
    # 2) per prompt a and, of tied ones, s
    gaps, spreads = dict[tuple[str, int], float](), dict[int, float]()
    for (kind, number), answers in samples.items():
        correct = [value for is_correct, value in answers if is_correct]
        gaps[kind, number] = min(correct) - max(v for is_correct, v in answers if not is_correct)
        if kind == "tied":
            spreads[number] = max(correct) - min(correct)
    # 3) the five terms by number, [N, 5]; nan where a number has not what a term needs
    numbers = sorted({number for _, number in gaps})
    ref, tie = (
        np.array([gaps.get((kind, number), np.nan) for number in numbers])
        for kind in ("ref", "tied")
    )
    spread = np.array([spreads.get(number, np.nan) for number in numbers])
    least = np.minimum(ref, tie)
    paired = ~np.isnan(least)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    terms = np.stack([tie > 0, ref > 0, tie > spread, least > spread, margin], axis=1).astype(float)
    terms[np.isnan(tie), 0] = terms[np.isnan(ref), 1] = np.nan
    terms[~paired, 2:] = np.nan
    # 4) a weighted sum of means, each over the numbers that have its term
    num_failed = sum(scores is None for *_, scores in prompts)
    if not paired.any():
        reason = "no value: no number has both a ref and a tied prompt"
        none = Score(name, None, None, None, 0, num_failed + len(samples), reason=reason)
        return none, [], np.zeros(1)
    value = float(np.nanmean(terms, axis=0) @ WEIGHTS)
    picks = resamples(len(numbers))
    with np.errstate(invalid="ignore"):
        drawn = np.nan_to_num(_nan_means(terms[picks])) @ WEIGHTS
    interval = percentiles(drawn) if len(numbers) > 1 else NONE
    by_number = [
        float(row @ WEIGHTS) if ok else None for row, ok in zip(terms, paired, strict=True)
    ]
    items = item_rows(name, numbers, by_number, "one of the two prompts has no scores")
    return Score(name, value, *interval, len(samples), num_failed), items, drawn


def _nan_means(values: Floats) -> Floats:
    """Means over axis 1 of [resamples, N, K] without nan; nan where there is nothing."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1))
