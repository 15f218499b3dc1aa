"""Filters: stages that choose, change or pair rows. A new one: a file, a line here, a test file."""

from bezoar.judge.attribute_stages import AttributePairs, Label, Steer
from bezoar.judge.attributes import Attributes
from bezoar.judge.best_of_n import BestOfN
from bezoar.judge.filter import Filter
from bezoar.judge.heuristics import Dedup, Form
from bezoar.judge.mixture import Mixture

FILTERS: dict[str, type] = {
    "filter": Filter,
    "form": Form,
    "dedup": Dedup,
    "mixture": Mixture,
    "best_of_n": BestOfN,
    "steer": Steer,
    "attributes": Attributes,
    "label": Label,
    "attribute_pairs": AttributePairs,
}
