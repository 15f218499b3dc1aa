"""Carrying out a recipe: every stage whose key is not there yet, in order; it can stop anywhere."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from bezoar.errors import BezoarError, RecipeError
from bezoar.flow.budgets import Short, limit_of
from bezoar.flow.cache_key import all_keys
from bezoar.flow.preflight import check_files, check_machine, check_rows
from bezoar.flow.recipe import Recipe
from bezoar.flow.run_context import RunContext, run_stage, summary
from bezoar.flow.rundir import RunDir, key_record
from bezoar.flow.sharing import take
from bezoar.flow.training_plan import KnownRows
from bezoar.io import failure
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.servers import Servers
from bezoar.progress import MetricSink, Progress, check_metric_sinks, open_metric_sinks
from bezoar.stage import Stats


def run_recipe(
    recipe: Recipe, run: RunDir, *, console: Any = None, log: Sequence[str | MetricSink] = ()
) -> dict[str, Stats]:
    """Bring every stage up to date; returns the statistics of the stages that ran, by name.

    `log` has metric sinks or their names. BudgetError, after all stages that can be run
    have run, if money was wanting for some: what reads those is never made of a part of their rows.
    """
    done: dict[str, Stats] = {}
    check_metric_sinks(log)
    # 1) The folder is ours: asked before the lock, whose file must not come into someone else's
    # folder, and again behind it, since another process may have taken the folder meanwhile.
    run.check_owner(recipe)
    check_files(recipe)
    with run.locked():
        run.check_owner(recipe)
        # 2) Outputs that an earlier process finished but did not place count as finished.
        keys, parts = all_keys(recipe)
        run.adopt(recipe, keys)
        run.recover()
        # 3) When every key is stored there is nothing to do, and no journal or sink is opened.
        stale = run.stale(keys)
        if not stale:
            return done
        _say_where(recipe, stale, console)
        # before anyone is asked and paid
        check_rows(KnownRows(recipe, run, stale))
        check_machine(recipe, stale, console)
        with (
            Journal(journal_path(run), say=console.print if console else None) as journal,
            open_metric_sinks(log, run.path) as sinks,
            Servers(run.path) as servers,
        ):
            budget, short = Budget(recipe.budget_usd, journal, run=recipe.name), Short()
            for number, name in enumerate(recipe.stages, 1):
                # 4) What reads a stage that is short of money waits for all of its rows.
                if name not in stale or short.leaves_out(name, recipe.upstream(name)):
                    continue
                stale.remove(name)
                spent_usd = partial(journal.spent_usd, recipe.name)
                allow = partial(_allow, budget, recipe, (name, *stale), spent_usd)
                allow(name)
                progress = Progress(name, run.path / "metrics.jsonl", console, boards=sinks)
                record = key_record(keys[name], parts[name], recipe=recipe, name=name)
                with (
                    short.notes(name, budget),
                    _named(name),
                    run.output(name, number, record) as out,
                ):
                    work_dir = run.work_dir(name, keys[name])
                    trains = recipe.stages[name].gives == "model"
                    taken = take(run, keys[name], out, progress) if trains else None
                    parts_of = (progress, journal, budget, out, work_dir, allow, servers)
                    done[name] = taken or run_stage(RunContext(recipe, run, name, *parts_of))
                outcome = (
                    summary(done[name]) if name in done else f"not finished, {short.why[name]}"
                )
                progress.say(f"{number:02d} {name}: {outcome}")
            short.check()
    return done


def _allow(
    budget: Budget,
    recipe: Recipe,
    waiting: Collection[str],
    spent_usd: Callable[[str], float],
    stage: str,
) -> None:
    """Set the budget to what a stage may spend while others wait, one that buys among them when it
    is a filter behind it that is asked."""
    later = [name for name in waiting if name != stage]
    budget.allow(*limit_of(recipe, stage, later, spent_usd))


def _say_where(recipe: Recipe, stale: Collection[str], console: Any) -> None:
    """Which stage comes first, where it is not the first of the recipe."""
    num, first = len(recipe.stages), next(name for name in recipe.stages if name in stale)
    if console and len(stale) < num:
        console.print(f"{num - len(stale)} of {num} stages are done; it goes on with {first}")


def journal_path(run: RunDir) -> Path:
    """The journal that the runs beside each other share, linked into the run directory; a copy
    without links keeps its own."""
    shared = run.path.parent / "journal.sqlite"
    link = run.path / "journal.sqlite"
    if link.exists() and not link.is_symlink():
        return link
    if not link.is_symlink():
        with suppress(OSError):  # the file system knows no links; this one is for people alone
            link.symlink_to(Path("..") / shared.name)
    return shared


@contextmanager
def _named(stage: str) -> Iterator[None]:
    """Turn failures of the machine into one sentence with the stage's name."""
    try:
        yield
    except BezoarError as error:
        if str(error).startswith("stage "):
            raise
        raise type(error)(f"stage {stage}: {error}") from error
    except Exception as error:
        # libraries that write files turn a full disk into errors of their own
        full = (
            OSError(errno.ENOSPC, str(error)) if "No space left on device" in str(error) else None
        )
        cause = error if isinstance(error, OSError) else full
        if cause is None:
            raise
        raise RecipeError(f"stage {stage}: {failure(cause)}") from error


def default_run_dir(recipe: Recipe, out: Path | None = None) -> RunDir:
    """`out`, by default `runs/<name>` below the current folder."""
    return RunDir(out or Path(os.curdir) / "runs" / recipe.name)
