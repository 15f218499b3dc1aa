"""What the benchmarks beside the main one did, as clauses of the first sentence."""

import math

from bezoar.report.effects import Change
from bezoar.report.formatting import listed
from bezoar.report.plain_words import as_value, named

MOST_CLAUSES = 2
"""About other benchmarks in the first sentence."""
MOST_NAMES = 3
"""In one of them; more are counted."""


def changed(others: list[Change]) -> list[str]:
    """What the other benchmarks did, those that moved most first; beyond two clauses a number."""
    moved, unmoved, few = list[Change](), list[str](), list[str]()
    for change in others:
        if change.difference.distinguishable:
            moved.append(change)
        else:
            names = few if "too few" in change.difference.verdict else unmoved
            names.append(named(change.benchmark))
    moved.sort(key=_strength, reverse=True)
    clauses = [_moved(change) for change in moved[:MOST_CLAUSES]]
    num_moved, num_hidden = len(moved) - len(clauses), 0
    for words, names in (("no change was found", unmoved), ("too few items to tell", few)):
        if len(clauses) >= MOST_CLAUSES:
            num_hidden += len(names)
        elif names:
            many = len(names) > MOST_NAMES
            clauses.append(f"{words} on {f'{len(names)} benchmarks' if many else listed(names)}")
    if num := num_moved or num_hidden:
        changed = " changed" if num_moved else ""
        clauses.append(f"and {num} more benchmark{'' if num == 1 else 's'}{changed}: see Scores")
    return clauses


def _strength(change: Change) -> float:
    """The difference in standard deviations of the items' differences; 0 without items."""
    difference = change.difference
    if not difference.n:
        return 0.0
    size = abs(difference.difference)
    return size / difference.spread if difference.spread else math.inf


def _moved(change: Change) -> str:
    scores = (change.first, change.second)
    first, second = (as_value(change.benchmark, score.value) for score in scores)
    fell = "fell" if change.difference.difference < 0 else "rose"
    return f"{named(change.benchmark)} {fell} from {first} to {second}"
