"""Carrying out a recipe: every stage whose key is not there yet, in order; it can stop anywhere."""

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Filtered, count_reasons
from bezoar.errors import BezoarError, DataError, RecipeError, UnfinishedError
from bezoar.evals.agreement import ratings_agreement
from bezoar.flow.cache_key import all_keys
from bezoar.flow.preflight import check_files, check_machine, check_rows
from bezoar.flow.recipe import Recipe, lineage
from bezoar.flow.rundir import RunDir, key_record
from bezoar.io import failure, write_json, write_jsonl
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Backend
from bezoar.model.spec import ModelSpec
from bezoar.parquet import write_parquet
from bezoar.progress import Progress, check_metric_sinks, open_metric_sinks
from bezoar.stage import Rows, Stats, TrainedStage

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
        """The seed of the stage's draws: the recipe's, or that of a repeat."""
        return self.recipe.seed_of(self.name)

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

    def lineage(self, name: str) -> list[TrainedStage]:
        """The training stages that made a model, lowest first; none for one of `models:`."""
        return lineage(self.recipe, name)

    @property
    def shared_dir(self) -> Path:
        """The folder that the stages of the run share."""
        return self.run.path / ".shared"

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


def run_recipe(
    recipe: Recipe, run: RunDir, *, console: Any = None, log: Sequence[str] = ()
) -> dict[str, Stats]:
    """Bring every stage up to date; returns the statistics of the stages that ran, by name.

    `log` names metric sinks, such as tensorboard.
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
        run.adopt(recipe)
        run.recover()
        # 3) When every key is stored there is nothing to do, and no journal or sink is opened.
        cut = run.cut(recipe)
        keys, parts = all_keys(recipe, cut)
        stale = {name for name, key in keys.items() if run.stored(name).get("key") != key}
        if not stale:
            return done
        # before anyone is asked and paid
        check_rows(recipe, run, stale)
        check_machine(recipe, stale, console)
        with (
            Journal(journal_path(run), say=console.print if console else None) as journal,
            open_metric_sinks(log, run.path) as sinks,
        ):
            budget = Budget(recipe.budget_usd, journal, run=recipe.name)
            for number, name in enumerate(recipe.stages, 1):
                # 4) Keys are made anew for each stage: a stage that was cut short, or no longer
                # is, has another key, and so have all that read it.
                keys, parts = all_keys(recipe, cut)
                if run.stored(name).get("key") == keys[name]:
                    continue
                progress = Progress(name, run.path / "metrics.jsonl", console, boards=sinks)
                record = key_record(keys[name], parts[name], recipe=recipe, name=name)
                with _NamesStage(name), run.output(name, number, record) as out:
                    work_dir = run.work_dir(name, keys[name])
                    done[name] = run_stage(
                        RunContext(recipe, run, name, progress, journal, budget, out, work_dir)
                    )
                    # 5) Rows that the budget cut short hold only for this budget, so the budget
                    # becomes part of the key: a raised one runs the stage again.
                    if done[name].get("calls", {}).get("refused_by_budget"):
                        cut.add(name)
                        keys, parts = all_keys(recipe, cut)
                        record.update(key=keys[name], parts=parts[name])
                    else:
                        cut.discard(name)
                progress.say(f"{number:02d} {name}: {summary(done[name])}")
    return done


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


class _NamesStage:
    """Turn failures of the machine into one sentence with the stage's name."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        return None

    # libraries that write files turn a full disk into errors of their own, so the text is read too
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, BezoarError):
            if not str(error).startswith("stage "):
                raise type(error)(f"stage {self.stage}: {error}") from error
        elif isinstance(error, OSError) or "No space left on device" in str(error):
            cause = error if isinstance(error, OSError) else OSError(errno.ENOSPC, str(error))
            raise RecipeError(f"stage {self.stage}: {failure(cause)}") from error


def summary(stats: Stats) -> str:
    """One line about a finished stage."""
    # what came of it, what was left out, what it cost, in this order; nothing about zeros
    parts = []
    if "rows_out" in stats:
        total = f" of {stats['rows_in']}" if stats.get("rows_in", 0) > stats["rows_out"] else ""
        parts.append(f"{stats['rows_out']} rows{total}")
    if "other_part" in stats:
        parts.append(f"{stats['other_part']} rows in the other part")
    if stats.get("dropped"):
        counts = [f"{count} {reason}" for reason, count in stats["dropped"].items()]
        parts.append(f"dropped {', '.join(counts)}")
    calls = stats.get("calls")
    if calls:
        replies = f"{calls['asked']} replies ({calls['from_journal']} from the journal)"
        parts.append(f"{replies}, {calls['completion_tokens']} tokens")
        not_sent = calls.get("refused_by_budget", 0)
        if calls["failed"] > not_sent:
            parts.append(f"{calls['failed'] - not_sent} requests refused or without a text")
        if not_sent:
            parts.append(f"{not_sent} requests not sent: the budget is spent")
        if calls.get("cost_usd"):
            parts.append(f"{calls['cost_usd']:.2f} USD")
    if "first_loss" in stats:
        parts.append(f"loss {stats['first_loss']:.3f} -> {stats['last_loss']:.3f}")
    parts.append(f"{stats['seconds']:.1f} s")
    return "; ".join(parts)


def default_run_dir(recipe: Recipe) -> RunDir:
    """`runs/<name>` below the current folder."""
    return RunDir(Path(os.curdir) / "runs" / recipe.name)
