"""The order in which the rows of a stage are trained."""

import random
from functools import lru_cache


@lru_cache(maxsize=2)
def epoch_order(count: int, epoch: int, seed: int) -> tuple[int, ...]:
    """All of 0..count-1 in the order of an epoch, given by its number and the seed."""
    order = list(range(count))
    random.Random(f"epoch {epoch} {seed}").shuffle(order)
    return tuple(order)
