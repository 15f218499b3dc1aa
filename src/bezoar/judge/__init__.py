"""Filters: rows to accepted rows, by a judge or by form. A new one: a file, a line here, a test
file."""

from bezoar.judge.attribute_pairs import AttributePairs
from bezoar.judge.attributes import Attributes
from bezoar.judge.best_of_n import BestOfN
from bezoar.judge.condition_on_attributes import Steer
from bezoar.judge.filter import Filter
from bezoar.judge.heuristics import Dedup, Form
from bezoar.judge.predict_attributes import Label

FILTERS: dict[str, type] = {
    "filter": Filter,
    "form": Form,
    "dedup": Dedup,
    "best_of_n": BestOfN,
    "steer": Steer,
    "attributes": Attributes,
    "label": Label,
    "attribute_pairs": AttributePairs,
}
