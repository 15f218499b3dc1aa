"""Rows of several stages in given shares."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

from bezoar.bounds import Count, Positive
from bezoar.chat.row_types import TEXTS, RowNeed, RowType
from bezoar.chat.tool_calls import whole_text
from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Filtered, Messages, as_chats
from bezoar.cost import Estimate, Quote, exactly
from bezoar.references import RowsRef
from bezoar.rng import seed_for
from bezoar.stage import Outputs, Stage, StageContext, Stats


@dataclass(frozen=True)
class MixturePart:
    """The rows of one stage, and what they weigh."""

    rows: RowsRef
    """The stage whose rows are taken."""
    weight: Positive
    """Its share of the mixture, as a part of the sum of all weights."""


@dataclass(frozen=True)
class Mixture(Stage):
    """Mixes the rows of several stages in the shares that `parts` give them.

    It is the largest mixture that has these shares and repeats no row: the scarcest part gives all
    its rows, of the others a seeded sample is taken, and what lies over a part's share is dropped
    and counted. `meta["part"]` names the stage of each row. Pairs beside chats become chats.

    Source: Hermes 3, arXiv 2408.11857, section 3 (shares of tokens, of which words are our measure)
    Example: {kind: mixture, parts: [{rows: talk, weight: 95.7}, {rows: tools, weight: 4.3}]}
    """

    parts: tuple[MixturePart, ...]
    """The stages and their weights, two or more."""
    by: Literal["words", "rows"] = "words"
    """What the shares are of."""
    most: Count | None = None
    """The most words or rows of the whole mixture."""
    kind: Literal["mixture"] = "mixture"
    gives = "rows"

    def __post_init__(self) -> None:
        names = [part.rows for part in self.parts]
        if len(names) < 2:
            raise ValueError("parts needs two or more stages; add one")
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"parts names {twice} twice; add the weights into one part")

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with one answer that counts."""
        return {f"parts.{number}.rows": TEXTS for number in range(len(self.parts))}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """What all parts carry."""
        types = [rows[part.rows] for part in self.parts]
        known = [kind.carries for kind in types if kind.carries is not None]
        carries = frozenset.intersection(*known) if len(known) == len(types) else None
        shapes = {kind.shape for kind in types}
        shape = types[0].shape if len(shapes) == 1 else None if None in shapes else "chats"
        return RowType(shape, carries).adding("part")

    def run(self, context: StageContext) -> Stats:
        """Mix the rows and write them."""
        parts = [context.rows(part.rows) for part in self.parts]
        mixed = self.mix(parts, seed=context.seed)
        sums = {part.rows: 0 for part in self.parts}
        for row, size in zip(mixed.rows, self._sizes(mixed.rows), strict=True):
            sums[row.meta["part"]] += size
        shares = {name: round(size / max(sum(sums.values()), 1), 4) for name, size in sums.items()}
        return {**context.write_rows(mixed, sum(map(len, parts))), "shares": shares}

    def mix(self, parts: Sequence[Sequence[AnyRow]], *, seed: int) -> Filtered[Chat | Comparison]:
        """The mixture of the rows of each part."""
        # 1) One shape for all rows: a file of rows has one.
        as_pairs = all(isinstance(row, Comparison) for rows in parts for row in rows)
        texts: list[list[Chat | Comparison]] = [
            [row for row in rows if isinstance(row, Comparison)] if as_pairs else [*as_chats(rows)]
            for rows in parts
        ]
        # 2) The scarcest part says how large the mixture can be.
        total = sum(part.weight for part in self.parts)
        shares = [part.weight / total for part in self.parts]
        sizes = [self._sizes(rows) for rows in texts]
        size = min(sum(own) / share for own, share in zip(sizes, shares, strict=True))
        size = min(size, self.most or size)
        # 3) Of each part a sample: its rows in an order of their own, up to its share.
        results: list[tuple[int, Chat | Comparison | Dropped]] = []
        for part, share, rows, own_sizes in zip(self.parts, shares, texts, sizes, strict=True):
            keys = [seed_for(seed, part.rows, row.id) for row in rows]
            keyed = sorted(zip(keys, rows, own_sizes, strict=True), key=lambda each: each[0])
            so_far = 0.0
            for key, row, own in keyed:
                # the row that crosses the line is taken if most of it lies before the line
                if so_far + own / 2 <= share * size:
                    so_far += own
                    kept = replace(row, meta={**row.meta, "part": part.rows})
                    results.append((key, kept))
                else:
                    so_far = share * size
                    results.append((key, Dropped(row.id, f"over the share of {part.rows}")))
        return Filtered.split(row for _, row in sorted(results, key=lambda pair: pair[0]))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows of the scarcest part and as many of the others as the shares allow, if rows are
        of equal length; no requests."""
        total = sum(part.weight for part in self.parts)
        size = reduce(
            Estimate.at_most, (rows[part.rows] * (total / part.weight) for part in self.parts)
        )
        if self.by == "rows" and self.most is not None:
            size = size.at_most(exactly(self.most))
        return Quote(size)

    def _sizes(self, rows: Iterable[Chat | Comparison]) -> list[int]:
        return [1 if self.by == "rows" else num_words(row) for row in rows]


def num_words(row: Chat | Comparison) -> int:
    """Words of a conversation, of a pair with both answers; at least 1."""
    prompt: Messages = row.prompt
    texts = [*map(whole_text, prompt), row.answer]
    texts += [row.rejected] if isinstance(row, Comparison) else []
    return max(sum(len(text.split()) for text in texts), 1)
