"""What the filters share: rows of another stage, sorted by a judge or by rules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from bezoar.chat.ratings import Ratings
from bezoar.chat.row_types import TEXTS, RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered
from bezoar.cost import Estimate, Quote, exactly
from bezoar.io import Row
from bezoar.launch import AskLaunch
from bezoar.llm.types import Ask
from bezoar.parquet import parquet_writer
from bezoar.references import BackendRef, RowsRef
from bezoar.stage import Outputs, Rows, Stage, StageContext, Stats, in_parts


@dataclass(frozen=True)
class RuleFilter(Stage):
    """Rows that are kept, changed or paired by rules, without a model."""

    rows: RowsRef
    """The stage whose rows are read."""
    gives = "rows"
    # the share of the rows that `bezoar plan` assumes to be kept; not a recipe key
    kept_share: ClassVar[Estimate] = exactly(1)
    # whether what becomes of a row depends on no later one; not a recipe key
    row_by_row: ClassVar[bool] = True

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Any]:
        """The rows that are kept, and what was dropped and why."""
        raise NotImplementedError

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with one answer that counts."""
        return {"rows": TEXTS}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats that carry what they carried."""
        return rows[self.rows].chats()

    def run(self, context: StageContext) -> Stats:
        """Sift the rows and write those that are kept."""
        rows = context.rows(self.rows)
        return context.write_rows(self.sift(rows), len(rows))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The rows that are kept; no requests."""
        return Quote(rows[self.rows] * self.kept_share)


@dataclass(frozen=True)
class RowFilter(RuleFilter):
    """Rules that give rows as they read them, in memory that hardly grows with their number."""

    def each(self, rows: Rows, work_dir: Path | None = None) -> Iterator[Any | Dropped]:
        """What becomes of each of `rows`, in their order; `work_dir` is for temporary files."""
        raise NotImplementedError

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Any]:
        """The rows that are kept, and what was dropped and why."""
        return Filtered.split(self.each(rows))

    def run(self, context: StageContext) -> Stats:
        """Sift the rows as they are read from the disk, and write them there."""
        rows = context.stored_rows(self.rows)
        return context.write_each(self.each(rows, context.work_dir), len(rows))


@dataclass(frozen=True)
class FilterResult:
    """The rows by verdict.

    `meta` of those left out has `verdict` (reject, unparsed, failed, ...) and `reason`, and of
    rows that were judged by probabilities `score`.
    """

    accepted: list[Chat]
    rejected: list[Chat]
    unparsed: list[Chat]


@dataclass(frozen=True)
class JudgeFilter(Stage):
    """Rows that a judge accepts; the others are kept beside them in rejected.parquet."""

    rows: RowsRef
    """The stage whose rows are judged."""
    judge: BackendRef
    """The language model that judges."""
    launch: AskLaunch | None = field(default=None, kw_only=True)
    """What sends its requests; default: where the recipe's `launch` says."""
    gives = "rows"

    @property
    def row_by_row(self) -> bool:
        """Whether what becomes of a row depends on no later one; not a recipe key."""
        return True

    @property
    def without_words(self) -> str:
        """What does without a written verdict; not a recipe key."""
        return ""

    def repaired(self, ask: Ask) -> Ask:
        """`ask` for `judge_rows`, with what is done about replies that cannot be read."""
        return ask

    def judge_rows(self, rows: Sequence[AnyRow], ask: Ask) -> FilterResult:
        """All of `rows`, sorted by verdict, in their order."""
        raise NotImplementedError

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with one answer that counts."""
        return {"rows": TEXTS}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats that carry what they carried, and the verdict."""
        return rows[self.rows].chats().adding("verdict", "reason")

    def remedy(self, dropped: Mapping[str, int]) -> str:
        """Rows without a verdict say something of the judge and nothing of the rows."""
        if dropped.get("unparsed", 0) <= sum(dropped.values()) / 2:
            return super().remedy(dropped)
        return f"name a judge that writes verdicts in place of {self.judge}{self.without_words}"

    def run(self, context: StageContext) -> Stats:
        """Judge the rows, a part at a time where none depends on a later one, and write them by
        verdict."""
        rows, pool = context.stored_rows(self.rows), context.ask(self.judge)
        parts = in_parts(rows, whole=pool.whole or not self.row_by_row)
        ask = self.repaired(pool.ask_all)
        ratings = Ratings()
        # Rejected and unparsed rows stay readable, and both are counted as dropped.
        with parquet_writer(context.out_dir / "rejected.parquet") as write_left_out:
            sorted_ = (self._sorted(part, ask, ratings, write_left_out) for part in parts)
            stats = context.write_each(chain.from_iterable(sorted_), len(rows))
        return {**stats, **context.agreement(ratings)}

    def _sorted(
        self, part: Sequence[AnyRow], ask: Ask, ratings: Ratings, left_out: Callable[[Row], None]
    ) -> Iterator[Chat | Dropped]:
        """The rows of a part that are accepted; the others go to `left_out` and are dropped."""
        judged = self.judge_rows(part, ask)
        for row in judged.accepted:
            ratings.add(row)
            yield row
        # Repeated ratings can lie in any row, also in those left out.
        for row in (*judged.rejected, *judged.unparsed):
            ratings.add(row)
            left_out(row.to_row())
            yield Dropped(row.id, row.meta["verdict"], row.meta.get("reason", ""))


def with_meta(row: Chat, **values: Any) -> Chat:
    """The row with more values in its `meta`."""
    return replace(row, meta={**row.meta, **values})
