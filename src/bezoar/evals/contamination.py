"""Evaluation items that stand in the training rows, found by shared runs of words."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bezoar.chat.types import Chat, Comparison
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.section import Section
from bezoar.references import RowsRef

_WORD = re.compile(r"\w+")
FEWEST_WORDS = 4  # of an item, or of a run; shorter ones would match by chance
Text = tuple[str, str]
"""(id, text)."""


@dataclass(frozen=True)
class Contamination(Section):
    """Searches the training rows for the items of the other sections, by shared runs of words.

    Example: {rows: [instructions], n: 8}
    """

    rows: tuple[RowsRef, ...]
    """Stages whose rows trained the model."""
    n: int = 8
    """Words in a row that make a match, at least 4."""

    def __post_init__(self) -> None:
        if not self.rows or self.n < FEWEST_WORDS:
            raise ValueError("contamination needs the rows of a stage and an n of at least 4")

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Counts by section, with a warning for items that stand whole in the training rows."""
        rows = [row_text(row) for name in self.rows for row in context.rows(name)]
        facts = contamination(rows, context.texts, self.n).to_dict()
        for name, counts in facts["benchmarks"].items():
            if counts["contaminated"]:
                share = f"{counts['contaminated']} of {counts['items']} items of {name}"
                context.progress.say(f"warning: {share} stand in the training rows.")
        return Outcome(info={"contamination": facts})


@dataclass(frozen=True)
class Match:
    """An item, the `share` of its n-grams that rows have, the first such `row`, shared `words`."""

    benchmark: str
    item: str
    row: str
    share: float
    words: str


@dataclass(frozen=True)
class Matches:
    """All items that share an n-gram; with half of their n-grams shared they are contaminated."""

    n: int
    num_rows: int
    num_items: dict[str, int]
    touched: list[Match]

    def to_dict(self) -> dict[str, Any]:
        """Counts by benchmark, and the touched items, worst first."""
        benchmarks = {}
        for name, count in self.num_items.items():
            shares = [match.share for match in self.touched if match.benchmark == name]
            num_half = sum(share >= 0.5 for share in shares)
            benchmarks[name] = {"items": count, "touched": len(shares), "contaminated": num_half}
        touched = [asdict(match) for match in self.touched]
        return {"n": self.n, "rows": self.num_rows, "benchmarks": benchmarks, "touched": touched}


def contamination(
    rows: Iterable[Text], benchmarks: Mapping[str, Iterable[Text]], n: int = 8
) -> Matches:
    """Every training row against every item; an item of 4 to `n` - 1 words counts as a whole."""
    # 1) the n-grams of all items, in one table, so that the rows are read only once
    items = [(name, i, _grams(text, n)) for name, texts in benchmarks.items() for i, text in texts]
    first_row: dict[tuple[str, ...], str] = {gram: "" for _, _, grams in items for gram in grams}
    sizes = sorted({len(gram) for gram in first_row})
    # 2) the first row in which each of them stands
    num_rows = 0
    for row_id, text in rows:
        num_rows += 1
        words = _WORD.findall(text.lower())
        for size in sizes:
            for start in range(len(words) - size + 1):
                gram = tuple(words[start : start + size])
                if first_row.get(gram) == "":
                    first_row[gram] = row_id
    # 3) back to the items
    touched = []
    num_items = dict.fromkeys(benchmarks, 0)
    for name, item, grams in items:
        num_items[name] += 1
        shared = [gram for gram in grams if first_row[gram]]
        if shared:
            share, run = len(shared) / len(grams), " ".join(shared[0])
            touched.append(Match(name, item, first_row[shared[0]], share, run))
    return Matches(n, num_rows, num_items, sorted(touched, key=lambda match: -match.share))


def row_text(row: Chat | Comparison) -> Text:
    """All that a model reads of a row in training."""
    messages = row.messages if isinstance(row, Chat) else row.prompt
    answers = [] if isinstance(row, Chat) else [row.chosen, row.rejected]
    return row.id, "\n".join([*(m.content for m in messages), *answers])


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    if len(words) < FEWEST_WORDS:
        return []
    size = min(n, len(words))
    return list(dict.fromkeys(tuple(words[i : i + size]) for i in range(len(words) - size + 1)))
