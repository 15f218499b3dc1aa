"""Win rate of one set of answers over another, judged in both orders, with what the order and the
length did to it.

A prompt's value is the mean of its two games (win 1, tie 1/2, loss 0), so a judge that likes the
first position moves nothing. A prompt with an unread verdict is a failure. Intervals resample
prompts, not games.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bezoar.chat.types import Comparison
from bezoar.evals.outcome import Outcome
from bezoar.evals.stats import NONE, Floats, Score, clustered_score, percentiles, resamples, score
from bezoar.io import Row
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference, Side

_GAIN: dict[Side, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}


def outcome(
    pairs: Sequence[Comparison],
    verdicts: Sequence[Preference],
    margins: Sequence[float | None] = (),
) -> Outcome:
    """The figures of judged pairs. With `margins`, also who wins without the pull of the position,
    which is all that moves a weak judge's verdicts."""
    values = [prompt_value(v) for v in verdicts]
    gaps = [len(p.chosen) - len(p.rejected) for p in pairs]
    scores = [
        score("win rate", values),
        length_controlled(values, gaps),
        first_position(verdicts),
        score(
            "win rate/orders disagree",
            [
                None if v is None else float(not p.consistent)
                for v, p in zip(values, verdicts, strict=True)
            ],
        ),
    ]
    items: list[Row] = [
        {
            "benchmark": "win rate",
            "id": p.id,
            "value": v,
            "first": _told(j.first),
            "second": _told(j.second),
            "length_gap": gap,
        }
        for p, v, j, gap in zip(pairs, values, verdicts, gaps, strict=True)
    ]
    if any(margins):
        free = [None if m is None else float(m > 0) + 0.5 * (m == 0) for m in margins]
        scores.append(score("win rate/free of position", free))
        items += [
            {"benchmark": "win rate/free of position", "id": p.id, "value": v}
            for p, v in zip(pairs, free, strict=True)
        ]
    failures = Counter(
        side.why.split(":")[0]
        for j in verdicts
        for side in (j.first, j.second)
        if isinstance(side, Unparsed)
    )
    return Outcome(scores, items, {"win_rate": {"failures": dict(failures)}})


def prompt_value(verdict: Preference) -> float | None:
    """Mean gain of A over both orders; None when a verdict was not read."""
    if isinstance(verdict.first, Unparsed) or isinstance(verdict.second, Unparsed):
        return None
    return (_GAIN[verdict.first] + _GAIN[verdict.second]) / 2


def first_position(verdicts: Sequence[Preference]) -> Score:
    """Share of decisive games that the answer shown first won: 0.5 without position bias."""
    groups: list[list[float | None]] = []
    for verdict in verdicts:
        # in the second game B was shown first
        sides = (("A", verdict.first), ("B", verdict.second))
        groups.append(
            [
                None if isinstance(side, Unparsed) else float(side == shown)
                for shown, side in sides
                if side != "tie"
            ]
        )
    return clustered_score("win rate/first position", groups, share=True)


def length_controlled(values: Sequence[float | None], gaps: Sequence[float]) -> Score:
    """Win rate with the pull of length taken out: our own number, after AlpacaEval's (arXiv
    2404.04475) but without its difficulty of prompts and its judge-wide fit. The two differ by
    points and are not to be compared.

    P(A wins prompt x) = sigmoid(t + f * tanh(gap_x / s)), with gap the difference in characters and
    s its standard deviation. t and f maximise the log-likelihood of the prompts' values less 0.025
    f^2, with 0.05 of a tie added, so that both are finite; the score is sigmoid(t). The interval
    refits on resampled prompts.
    """
    name = "win rate/length-adjusted (ours)"
    kept = [(v, g) for v, g in zip(values, gaps, strict=True) if v is not None]
    num_failed = len(values) - len(kept)
    if not kept:
        return Score(name, None, None, None, 0, num_failed)
    wins = np.array([v for v, _ in kept])
    lengths = np.array([float(g) for _, g in kept])
    spread = float(lengths.std())
    pull = np.tanh(lengths / spread) if spread else np.zeros(len(kept))
    value = float(_fit(wins[None], pull[None])[0])
    picks = resamples(len(kept), 1000)
    bounds = percentiles(_fit(wins[picks], pull[picks])) if len(kept) > 1 else NONE
    return Score(name, value, bounds[0], bounds[1], len(kept), num_failed)


def _fit(wins: Floats, pull: Floats) -> Floats:
    """sigmoid(t) of every row of [fits, prompts], by Newton's method."""
    t, f = np.zeros(len(wins)), np.zeros(len(wins))
    for _ in range(50):
        chance = 1 / (1 + np.exp(-(t[:, None] + f[:, None] * pull)))
        weight = chance * (1 - chance)
        prior = 1 / (1 + np.exp(-t))
        slope_t = (wins - chance).sum(1) + 0.05 * (0.5 - prior)
        slope_f = ((wins - chance) * pull).sum(1) - 0.05 * f
        tt, tf = weight.sum(1) + 0.05 * prior * (1 - prior) + 1e-9, (weight * pull).sum(1)
        ff = (weight * pull**2).sum(1) + 0.05
        size = tt * ff - tf**2
        step_t, step_f = (ff * slope_t - tf * slope_f) / size, (tt * slope_f - tf * slope_t) / size
        t, f = t + np.clip(step_t, -2, 2), f + np.clip(step_f, -2, 2)
        if float(np.abs([step_t, step_f]).max()) < 1e-9:
            break
    return np.asarray(1 / (1 + np.exp(-t)), dtype=np.float64)


def _told(side: Side | Unparsed) -> str:
    return f"unparsed: {side.why}" if isinstance(side, Unparsed) else side
