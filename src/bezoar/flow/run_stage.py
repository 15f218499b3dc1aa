"""What a run gives a stage to read, and what becomes of its output."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Filtered, count_reasons
from bezoar.errors import DataError, UnfinishedError
from bezoar.evals.agreement import ratings_agreement
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import write_json, write_jsonl
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Backend
from bezoar.model.spec import ModelSpec
from bezoar.parquet import write_parquet
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats

if TYPE_CHECKING:
    from bezoar.model.stack import Stack


@dataclass
class RunContext:
    """The `StageContext` of one stage of a run."""

    recipe: Recipe
    run: RunDir
    name: str
    progress: Progress
    journal: Journal
    budget: Budget
    out_dir: Path
    work_dir: Path
    _stacks: "dict[str, Stack]" = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of the recipe."""
        return self.recipe.seed

    @property
    def template(self) -> Template:
        """The template of the recipe."""
        return self.recipe.template

    def rows(self, name: str) -> list[AnyRow]:
        """The rows of a finished stage."""
        return self.run.items(name)

    def stored_rows(self, name: str) -> Rows:
        """The rows of a finished stage, read from their file whenever they are gone through."""
        return self.run.stored_rows(name)

    def model(self, name: str) -> tuple[ModelSpec, list[Path]]:
        """The base and the adapters, lowest first, of a model or a training stage's result."""
        return self.run.model(self.recipe, name)

    def open_model(self, name: str) -> "Stack":
        """The same model, loaded."""
        from bezoar.model.stack import Stack

        if name not in self._stacks:
            self._stacks[name] = Stack(*self.model(name))
        return self._stacks[name]

    def ask(self, backend: str) -> Pool:
        """A language model of the recipe, behind the journal and the budget."""
        return self._pool(self.recipe.backends[backend].open())

    def ask_model(self, name: str) -> Pool:
        """A model of the recipe as a language model, behind the same journal."""
        from bezoar.llm.local import StackBackend

        return self._pool(StackBackend(self.open_model(name), self.template))

    def _pool(self, backend: Backend | EndpointBackend) -> Pool:
        return Pool(backend, self.journal, self.budget, self.progress, stage=self.name)

    def identity(self, backend: str) -> str:
        """What names a language model and all that changes its answers."""
        return self.recipe.backends[backend].identity

    def agreement(self, rows: list[Chat]) -> Stats:
        """How far repeated ratings of the rows agree, printed; empty without such ratings."""
        scores = ratings_agreement(rows)
        for score in scores:
            self.progress.say(f"  {self.name}: {score}")
        return {"agreement": [vars(score) for score in scores]} if scores else {}

    def write_rows(self, filtered: Filtered[Any], num_read: int | None = None) -> Stats:
        """Write rows.parquet and failures.jsonl, and count them."""
        write_parquet(self.out_dir / "rows.parquet", [row.to_row() for row in filtered.rows])
        write_jsonl(self.out_dir / "failures.jsonl", [asdict(d) for d in filtered.dropped])
        # a scheme may make several rows of one that it reads, so it says itself how many it read
        total = len(filtered.rows) + len(filtered.dropped) if num_read is None else num_read
        dropped = count_reasons(filtered.dropped)
        return {"rows_in": total, "rows_out": len(filtered.rows), "dropped": dropped}


def run_stage(context: RunContext) -> Stats:
    """Run one stage and return its statistics, which are also written to stats.json.

    A stage without a single row is an error: nothing that reads it could do its work.
    """
    started = time.monotonic()
    stats = context.recipe.stages[context.name].run(context)
    # before the check below: the numbers of a failed stage help to find out why it kept nothing
    stats = {"seconds": round(time.monotonic() - started, 2), **stats}
    write_json(context.out_dir / "stats.json", stats)
    if stats.get("rows_out") == 0:
        if stats.get("calls", {}).get("refused_by_budget"):
            advice = "raise budget_usd and run the same command to go on"
            raise UnfinishedError(f"the budget is spent before one row was made; {advice}.")
        counts = ", ".join(f"{num} {reason}" for reason, num in stats["dropped"].items())
        raise DataError(
            f"kept none of {stats['rows_in']} rows ({counts or 'there were none'}); see"
            f" {context.out_dir / 'failures.jsonl'}, then change the stage or what it reads."
        )
    return stats
