"""What the schemes share: a teacher answers what is asked about the rows of another stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.chat.types import AnyRow, Chat, Filtered
from bezoar.llm.types import Ask
from bezoar.references import BackendRef, RowsRef
from bezoar.stage import Stage, StageContext, Stats


@dataclass(frozen=True)
class Scheme(Stage):
    """Rows that a teacher makes from seeds."""

    seeds: RowsRef
    """The stage whose rows are the seeds."""
    teacher: BackendRef
    """The language model that writes."""
    gives = "rows"

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The new rows, and what was dropped on the way; equal replies give equal rows."""
        raise NotImplementedError

    def run(self, context: StageContext) -> Stats:
        """Ask the teacher and write the rows."""
        seeds, pool = context.rows(self.seeds), context.ask(self.teacher)
        made = self.generate(seeds, pool.ask_all, seed=context.seed)
        return {**context.write_rows(made, len(seeds)), "calls": pool.counts()}
