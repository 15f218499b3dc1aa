"""Seeds and generators that depend on what they are for, and on nothing that was drawn before."""

import random

from bezoar.io import content_hash


def seed_for(*parts: int | str) -> int:
    """A number below 2^31 that depends on `parts` alone."""
    return int(content_hash(*parts), 16) % (1 << 31)


def rng_for(*parts: int | str) -> random.Random:
    """A generator of its own for the draws of one row."""
    return random.Random(content_hash(*parts))
