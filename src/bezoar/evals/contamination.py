"""Evaluation items that stand in the training rows, found by shared runs of words."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bezoar.chat.types import Chat, Comparison
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.references import RowsRef

_WORD = re.compile(r"\w+")
Text = tuple[str, str]
"""(id, text)."""


@dataclass(frozen=True)
class Contamination:
    """Recipe keys: the stages whose rows trained the model, and how many words in a row make a
    match."""

    rows: tuple[RowsRef, ...]
    n: int = 8

    def __post_init__(self) -> None:
        if not self.rows or self.n < 4:
            raise ValueError("contamination needs the rows of a stage and an n of at least 4")

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """The training rows against the items of all other sections; items that stand there whole
        are said aloud."""
        rows = [row_text(row) for name in self.rows for row in given.rows(name)]
        found = contamination(rows, given.texts, self.n).to_dict()
        for name, counts in found["benchmarks"].items():
            if counts["contaminated"]:
                given.progress.say(
                    f"warning: {counts['contaminated']} of {counts['items']} items of {name} stand"
                    " in the training rows."
                )
        return Outcome(info={"contamination": found})


@dataclass(frozen=True)
class Touch:
    """An item with words that a training row has too: `share` of its n-grams, `row` the first such
    row, `words` a shared run."""

    benchmark: str
    item: str
    row: str
    share: float
    words: str


@dataclass(frozen=True)
class Found:
    """`touched` items share an n-gram; those with at least half of their n-grams shared count as
    contaminated."""

    n: int
    num_rows: int
    num_items: dict[str, int]
    touched: list[Touch]

    def to_dict(self) -> dict[str, Any]:
        """Counts by benchmark, and the touched items, worst first."""
        table = {
            name: {
                "items": count,
                "touched": sum(t.benchmark == name for t in self.touched),
                "contaminated": sum(t.benchmark == name and t.share >= 0.5 for t in self.touched),
            }
            for name, count in self.num_items.items()
        }
        return {
            "n": self.n,
            "rows": self.num_rows,
            "benchmarks": table,
            "touched": [asdict(t) for t in self.touched],
        }


def contamination(
    rows: Iterable[Text], benchmarks: Mapping[str, Iterable[Text]], n: int = 8
) -> Found:
    """Every training row against every item. An item of fewer than `n` words counts by its whole
    text, from 4 words on."""
    items = [(name, i, _grams(text, n)) for name, texts in benchmarks.items() for i, text in texts]
    wanted: dict[tuple[str, ...], str] = {gram: "" for _, _, grams in items for gram in grams}
    sizes = sorted({len(gram) for gram in wanted})
    num_rows = 0
    for row_id, text in rows:
        num_rows += 1
        words = _words(text)
        for size in sizes:
            for start in range(len(words) - size + 1):
                gram = tuple(words[start : start + size])
                if wanted.get(gram) == "":
                    wanted[gram] = row_id
    touched = []
    for name, i, grams in items:
        hits = [gram for gram in grams if wanted[gram]]
        if hits:
            touched.append(
                Touch(name, i, wanted[hits[0]], len(hits) / len(grams), " ".join(hits[0]))
            )
    counts: dict[str, int] = dict.fromkeys(benchmarks, 0)
    for name, _, _ in items:
        counts[name] += 1
    return Found(n, num_rows, counts, sorted(touched, key=lambda t: -t.share))


def row_text(row: Chat | Comparison) -> Text:
    """All that a model reads of a row in training."""
    messages = row.messages if isinstance(row, Chat) else row.prompt
    answers = [] if isinstance(row, Chat) else [row.chosen, row.rejected]
    return row.id, "\n".join([*(m.content for m in messages), *answers])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = _words(text)
    if len(words) < 4:
        return []
    size = min(n, len(words))
    return list(dict.fromkeys(tuple(words[i : i + size]) for i in range(len(words) - size + 1)))
