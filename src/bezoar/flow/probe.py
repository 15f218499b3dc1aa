"""A probe before a quote: a few rows of each stage that is paid for, asked for real. The replies
are in the journal, and the run does not ask the same again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bezoar.chat.types import AnyRow
from bezoar.cost import Estimate, has_price
from bezoar.data.source import Source
from bezoar.evals.stats import wilson
from bezoar.flow.budgets import limit_of
from bezoar.flow.cache_key import all_keys
from bezoar.flow.preflight import check_files
from bezoar.flow.recipe import Recipe
from bezoar.flow.run import journal_path
from bezoar.flow.run_context import RunContext
from bezoar.flow.rundir import RunDir
from bezoar.judge.stages import JudgeFilter, RuleFilter
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.progress import Progress
from bezoar.stage import Stage
from bezoar.synth.drawn_rows import DrawnRows
from bezoar.synth.scheme import Scheme

_SEEDS = 200
"""Rows of a finished stage that stand for it."""


@dataclass
class Probe:
    """Asks for `num` rows of each stage that can be tried now; `kept` has the share that a filter
    kept of them."""

    recipe: Recipe
    run: RunDir
    num: int
    kept: dict[str, Estimate] = field(default_factory=dict)
    rows: dict[str, Sequence[AnyRow]] = field(default_factory=dict)

    def ask(self, console: Any) -> None:
        """Try the stages in their order. BudgetError where money is wanting, UnfinishedError where
        a server does not answer."""
        recipe, run = self.recipe, self.run
        run.check_owner(recipe)
        check_files(recipe)
        stale = run.stale(all_keys(recipe)[0])
        with Journal(journal_path(run)) as journal:
            budget = Budget(recipe.budget_usd, journal, run=recipe.name)
            for name in (n for n, stage in recipe.stages.items() if stage.gives == "rows"):
                later = [each for each in stale if each != name]
                spent_usd = partial(journal.spent_usd, recipe.name)
                budget.allow(*limit_of(recipe, name, later, spent_usd))
                out, progress = Path(), Progress(name, None, console)
                context = RunContext(recipe, run, name, progress, journal, budget, out, out)
                if name not in stale:
                    self.rows[name] = list(islice(run.stored_rows(name), _SEEDS))
                elif (rows := self._try(name, recipe.stages[name], context)) is not None:
                    self.rows[name] = rows

    def _try(self, name: str, stage: Stage, context: RunContext) -> Sequence[AnyRow] | None:
        """Some rows of a stage; None where they are not known without a run, or not paid for."""
        reads = [ref for ref in self.recipe.inputs(name) if ref.kind != "file"]
        asks = [ref.name for ref in reads if ref.kind == "backend"]
        needed = [ref.name for ref in reads if ref.kind != "backend"]
        is_paid = any(has_price(self.recipe.backends[backend]) for backend in asks)
        if not self.rows.keys() >= set(needed) or (asks and not is_paid):
            return None
        if isinstance(stage, Source):
            return stage.load().rows if stage.is_small() else None
        if isinstance(stage, RuleFilter):
            some = self.rows[stage.rows]
            return self._noted(name, some, stage.sift(some).rows)
        if isinstance(stage, JudgeFilter):
            some = self.rows[stage.rows][: self.num]
            judged = stage.judge_rows(some, stage.repaired(context.ask(stage.judge).ask_all))
            return self._noted(name, some, judged.accepted)
        if isinstance(stage, Scheme | DrawnRows) and asks and hasattr(stage, _counted(stage)):
            seeds = self.rows[needed[0]] if needed else []
            ask = context.ask(stage.teacher).ask_all
            return stage.first(self.num, seeds, ask, seed=context.seed).rows
        return None

    def _noted(
        self, name: str, before: Sequence[AnyRow], kept: Sequence[AnyRow]
    ) -> Sequence[AnyRow]:
        if before and len(kept) <= len(before):
            low, high = wilson(len(kept), len(before))
            self.kept[name] = Estimate(low, len(kept) / len(before), high)
        return kept


def _counted(stage: Stage) -> str:
    return getattr(stage, "counted", "num_rows")
