"""What a paired test finds in four runs of five, or how many items that takes."""

import math
from statistics import NormalDist

from bezoar.evals.stats import CONFIDENCE


def detectable(
    n: int, spread: float = math.sqrt(0.5), power: float = 0.8, num_tests: int = 1
) -> float:
    """The smallest true difference that a paired test over `n` items finds, at this `power`.

    (z of 97.5 % + z of power) * spread / sqrt(n), for one of several tests with z of the 5 % that
    a correction for their number leaves; `spread` is the standard deviation of an item's
    difference, by default that of two independent yes-or-no answers at 50 %: the widest case for
    models that do not disagree on purpose.
    """
    return quantiles(power, num_tests) * spread / math.sqrt(n)


def quantiles(power: float, num_tests: int = 1) -> float:
    """z of the two-sided 5 %, divided by the number of tests, plus z of `power`."""
    normal = NormalDist()
    return normal.inv_cdf(1 - (1 - CONFIDENCE) / 2 / num_tests) + normal.inv_cdf(power)
