"""Whether models differ from one of them on a benchmark: over the items that both answered, or from
two intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

from bezoar.evals.stats import CONFIDENCE, Score, holm, paired

Values = Mapping[str, float]


@dataclass(frozen=True)
class ModelDifference:
    """A model's value minus the reference's. `low`, `high` and `n` are those of the shared items;
    `n` is 0 where there are none."""

    value: float
    low: float | None
    high: float | None
    n: int
    distinguishable: bool


def gaps(
    reference: tuple[Score, Values], others: Mapping[str, tuple[Score, Values]]
) -> dict[str, ModelDifference]:
    """Every other model against `reference`.

    Over shared items: distinguishable when the p of the paired sign-flip test, corrected for the
    number of models (Holm), is below 5 %. Without items: when the two intervals do not meet, which
    is cautious.
    """
    score, values = reference
    found: dict[str, ModelDifference] = {}
    tested: dict[str, float] = {}
    for name, (other, its) in others.items():
        shared = sorted(values.keys() & its.keys())
        if len(shared) > 1:
            d = paired(name, [values[i] for i in shared], [its[i] for i in shared])
            found[name], tested[name] = (
                ModelDifference(d.difference, d.low, d.high, d.n, False),
                d.p,
            )
        else:
            found[name] = ModelDifference(
                (other.value or 0.0) - (score.value or 0.0), None, None, 0, apart(score, other)
            )
    for name, p in zip(tested, holm(list(tested.values())), strict=True):
        found[name] = ModelDifference(
            found[name].value, found[name].low, found[name].high, found[name].n, p < 1 - CONFIDENCE
        )
    return {name: found[name] for name in others}


def apart(one: Score, other: Score) -> bool:
    """True when both have an interval and the two do not meet."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or other.low > one.high
