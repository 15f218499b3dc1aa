"""Repeated ratings of rows, counted as the rows come."""

from collections import Counter
from typing import Any

from bezoar.chat.types import Chat


class Ratings:
    """How often each two levels stand first in a row's `meta["ratings"]`, in `tables` by attribute;
    of `num_rows` rows `num_rated` have two ratings. Nothing grows with the rows."""

    def __init__(self) -> None:
        self.num_rows = self.num_rated = 0
        self.tables: dict[str, Counter[tuple[int, int]]] = {}

    def add(self, row: Chat) -> None:
        """Count one more row; an attribute that it does not rate twice is counted no longer."""
        self.num_rows += 1
        pair = _first_two(row.meta.get("ratings"))
        if not pair:
            return
        if not self.num_rated:
            self.tables = {name: Counter() for name in pair[0]}
        self.num_rated += 1
        in_both = pair[0].keys() & pair[1].keys()
        self.tables = {name: table for name, table in self.tables.items() if name in in_both}
        for name, table in self.tables.items():
            table[pair[0][name], pair[1][name]] += 1


def _first_two(ratings: Any) -> list[dict[str, int]]:
    """The first two ratings, or none: a row from elsewhere may hold anything under that name."""
    if not isinstance(ratings, list) or len(ratings) < 2:
        return []
    for rating in ratings[:2]:
        if not isinstance(rating, dict):
            return []
        if not all(type(level) is int and 0 <= level <= 100 for level in rating.values()):
            return []
    return ratings[:2]
