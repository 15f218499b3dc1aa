"""How likely given attribute levels are for an answer, by the outputs of a regression model
(SteerLM 2.0)."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

CONCENTRATION = 24.0
"""alpha + beta of the Beta distribution, which fits the noise of HelpSteer2's labels (arXiv
2406.08673, section 4.5)."""
_BOUNDS = (0.0, 0.125, 0.375, 0.625, 0.875, 1.0)
_LEAST_CHANCE = 1e-8
_EDGE = 1e-3


def level_chances(output: float) -> list[float]:
    """P(a = 0..4) for the output of a regression model on levels 0 to 4 (arXiv 2406.08673, section
    4.5).

    r = output / 4, alpha = 24 r, beta = 24 - alpha, P(a = n) = BetaCDF(x_{n+1}) - BetaCDF(x_n).
    Ours: the bounds x lie midway between the levels, since the paper does not give them, and r is
    held to [0.001, 0.999], where the distribution exists.
    """
    from scipy.special import betainc  # type: ignore[import-untyped]

    alpha = CONCENTRATION * min(max(output / 4, _EDGE), 1 - _EDGE)
    below = [float(betainc(alpha, CONCENTRATION - alpha, x)) for x in _BOUNDS]
    return [high - low for low, high in pairwise(below)]


def log_chance(
    attributes: Mapping[str, int], outputs: Sequence[str], values: Sequence[float]
) -> float:
    """log P(a|x,y), the sum over the attributes (implied by the paper) of log P(a = level); ours: a
    chance is at least 1e-8."""
    found = dict(zip(outputs, values, strict=True))
    return sum(
        math.log(max(level_chances(found[name])[level], _LEAST_CHANCE))
        for name, level in attributes.items()
    )
