"""What a stage of a run is given, and its statistics."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.chat.ratings import Ratings
from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Messages
from bezoar.cost import cents
from bezoar.errors import EmptyStageError, UnfinishedError
from bezoar.evals.agreement import ratings_agreement
from bezoar.flow import by_engine
from bezoar.flow.acceptance import accepting
from bezoar.flow.engine_key import rolls_out
from bezoar.flow.launch import train
from bezoar.flow.recipe import Recipe, lineage
from bezoar.flow.rundir import RunDir
from bezoar.io import atomic_file, write_json
from bezoar.judge.stages import JudgeFilter, RuleFilter
from bezoar.launch import Ray
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.engine import EngineBackend
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.rollouts import EngineRollouts
from bezoar.llm.servers import Servers
from bezoar.llm.types import Ask, Backend
from bezoar.llm.vllm import Vllm
from bezoar.model.completions import draw_completions
from bezoar.model.spec import ModelSpec, Sampling
from bezoar.parquet import parquet_writer
from bezoar.progress import Progress
from bezoar.stage import PART_ROWS, Rows, Stats, TrainedStage
from bezoar.synth.accepted import Remembering
from bezoar.train import Training
from bezoar.train.settings import StageInputs

if TYPE_CHECKING:
    from bezoar.model.stack import Stack


@dataclass
class RunContext:
    """The `StageContext` of one stage of a run, which says what the methods do."""

    recipe: Recipe
    run: RunDir
    name: str
    progress: Progress
    journal: Journal
    budget: Budget
    out_dir: Path
    work_dir: Path
    allow: Callable[[str], None] = lambda stage: None
    """Set the budget to what a stage may spend."""
    servers: Servers = field(default_factory=Servers)
    """Those of the run, which outlive the stage."""
    _stacks: "dict[str, Stack]" = field(default_factory=dict)
    _pools: dict[tuple[str, str], Pool] = field(default_factory=dict)
    _filters: dict[str, Ask] = field(default_factory=dict)
    _engine: Stats = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of the stage's draws: the recipe's, or that of a repeat."""
        return self.recipe.seed_of(self.name)

    @property
    def template(self) -> Template:
        return self.recipe.template

    def rows(self, name: str) -> list[AnyRow]:
        return self.run.items(name)

    def stored_rows(self, name: str) -> Rows:
        return self.run.stored_rows(name)

    def model(self, name: str) -> tuple[ModelSpec, list[Path]]:
        return self.run.model(self.recipe, name)

    def lineage(self, name: str) -> list[TrainedStage]:
        stages = lineage(self.recipe, name)
        return [s._replace(folder=self.run.stage_dir(s.name)) for s in stages]

    @property
    def shared_dir(self) -> Path:
        return self.run.path / ".shared"

    def train(self, stage: Training, rows: Rows, inputs: StageInputs) -> Stats:
        # the memory of the device is the training's
        self.servers.stop()
        if self.recipe.engine and rolls_out(stage):
            engine = EngineRollouts(self.recipe.engine, self.servers, self.progress.say)
            inputs = replace(inputs, engine=engine)
        try:
            return train(self.recipe, self.name, stage, rows, inputs, self.progress)
        finally:
            self.servers.stop()

    def open_model(self, name: str) -> "Stack":
        from bezoar.model.stack import Stack

        if name not in self._stacks:
            self._stacks[name] = Stack(*self.model(name))
        return self._stacks[name]

    def ask(self, backend: str) -> Pool:
        number = list(self.recipe.stages).index(self.name) + 1
        title = f"{number:02d} {self.name}: {{}} to {backend}"
        return self._pool(("backend", backend), lambda: self._open(backend), title)

    def _open(self, name: str) -> Backend | EndpointBackend:
        asked, launch = self.recipe.backends[name], self.recipe.launch_of(self.name)
        # the localhost of a server that this process starts is not that of a node
        if isinstance(asked, Vllm):
            return asked.open(self.servers)
        backend = asked.open()
        if isinstance(launch, Ray) and isinstance(backend, EndpointBackend):
            from bezoar.llm.over_ray import nodes_at

            backend.nodes = nodes_at(launch.address)
            backend.nodes.say = self.progress.say
        return backend

    def ask_model(self, name: str) -> Pool:
        return self._pool(("model", name), lambda: self._answering(name))

    def _answering(self, name: str) -> Backend | EndpointBackend:
        """What answers for a model of the recipe: the engine, or the model in this process."""
        if self.recipe.engine:
            model, rank = self.model(name), by_engine.most_rank(self.recipe)
            return EngineBackend(self.recipe.engine, model, self.template, self.servers, rank)
        from bezoar.llm.local import StackBackend

        return StackBackend(self.open_model(name), self.template)

    def draw(
        self, name: str, prompts: Sequence[Messages], sampling: Sampling, num: int
    ) -> list[list[tuple[str, bool]] | None]:
        if self.recipe.engine is None:
            stack, how = self.open_model(name), {"num": num, "seed": self.seed}
            return draw_completions(stack, self.template, prompts, sampling, **how)
        pool = self.ask_model(name)
        drawn = by_engine.draw(pool, prompts, sampling, num=num, seed=self.seed)
        if isinstance(pool.backend, EngineBackend) and pool.backend.drawn:
            self._free_device()
            stack = self.open_model(name)
            self._engine[name] = by_engine.difference(pool.backend, stack, self.progress)
        return drawn

    def _free_device(self) -> None:
        """Make room on a GPU for the model itself."""
        import torch

        if torch.cuda.is_available():
            self.servers.stop()

    def _pool(
        self,
        key: tuple[str, str],
        open_it: Callable[[], Backend | EndpointBackend],
        title: str = "",
    ) -> Pool:
        # the parts of a stage that ask one model share its pool
        if key not in self._pools:
            parts = (self.journal, self.budget, self.progress)
            self._pools[key] = Pool(open_it(), *parts, stage=self.name, title=title)
        return self._pools[key]

    def calls(self) -> Stats:
        """What its language models were asked, all and each; empty without one."""
        if not (own := {name: pool.counts() for (_, name), pool in self._pools.items()}):
            return {}
        names = next(iter(own.values()))
        calls = {n: sum(c[n] for c in own.values()) for n in names}
        engine = {"engine": self._engine} if self._engine else {}
        return {"calls": calls, "models": own, **engine}

    def accepted(self, rows: Sequence[Chat]) -> set[str]:
        kept: Sequence[AnyRow] = rows
        for name in accepting(self.recipe.stages, self.name):
            stage = self.recipe.stages[name]
            if isinstance(stage, JudgeFilter):
                # what is asked is the filter's own: its money, its requests, its line of the bill
                self.allow(name)
                ask = stage.repaired(self._behind(name, stage.judge))
                kept = stage.judge_rows(kept, ask).accepted
                self.allow(self.name)
            elif isinstance(stage, RuleFilter):
                kept = stage.sift(kept).rows
        return {row.id for row in kept}

    def _behind(self, name: str, judge: str) -> Ask:
        """What a filter behind this stage asks its judge, in that filter's own name."""
        if name not in self._filters:
            progress = replace(self.progress, stage=name)
            own = replace(self, name=name, progress=progress, _pools={})
            self._filters[name] = Remembering(own.ask(judge).ask_all)
        return self._filters[name]

    def identity(self, backend: str) -> str:
        return self.recipe.backends[backend].identity

    def agreement(self, ratings: Ratings) -> Stats:
        scores = ratings_agreement(ratings)
        for score in scores:
            self.progress.say(f"  {self.name}: {score}")
        return {"agreement": [vars(score) for score in scores]} if scores else {}

    def write_rows(self, filtered: Filtered[Any], num_read: int | None = None) -> Stats:
        # a scheme may make several rows of one that it reads, so it says itself how many it read
        return self.write_each(chain(filtered.rows, filtered.dropped), num_read)

    def write_each(self, results: Iterable[Any | Dropped], num_read: int | None = None) -> Stats:
        num_rows, dropped = 0, Counter[str]()
        with (
            parquet_writer(self.out_dir / "rows.parquet") as write_row,
            atomic_file(self.out_dir / "failures.jsonl") as path,
            path.open("w", encoding="utf-8", errors="backslashreplace") as failures,
        ):
            for number, result in enumerate(results):
                if number and number % PART_ROWS == 0:
                    self.progress.say(f"  {self.name}: {number:,} rows are done")
                if isinstance(result, Dropped):
                    dropped[result.reason] += 1
                    failures.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
                else:
                    num_rows += 1
                    write_row(result.to_row())
        counts = {"rows_out": num_rows, "dropped": dict(dropped.most_common())}
        return {"rows_in": num_rows + dropped.total() if num_read is None else num_read, **counts}


def run_stage(context: RunContext) -> Stats:
    """Run one stage and return its statistics, which are also written to stats.json.

    A stage without a single row is an error: nothing that reads it could do its work. One that is
    unfinished leaves what it asked and why it ended, so that its money is on the bill.
    """
    started, stage = time.monotonic(), context.recipe.stages[context.name]
    try:
        stats = stage.run(context)
    except UnfinishedError as error:
        seconds, why = round(time.monotonic() - started, 2), str(error).partition("; ")[0]
        stats = {"seconds": seconds, "unfinished": why, **context.calls()}
        write_json(context.out_dir / "stats.json", stats)
        raise
    context.servers.unload_all()
    stats = {"seconds": round(time.monotonic() - started, 2), **stats, **context.calls()}
    if stats.get("rows_out") == 0:
        counts = ", ".join(f"{num} {reason}" for reason, num in stats["dropped"].items())
        stats["unfinished"] = (
            f"kept none of {stats['rows_in']} rows ({counts or 'there were none'})"
        )
        stats["remedy"] = stage.remedy(stats["dropped"])
    # before the error: the numbers of a failed stage help to find out why it kept nothing
    write_json(context.out_dir / "stats.json", stats)
    if "unfinished" in stats:
        see = f"see {context.out_dir / 'failures.jsonl'}, then {stats['remedy']}"
        raise EmptyStageError(f"{stats['unfinished']}; {see}.")
    return stats


def summary(stats: Stats) -> str:
    """One line about a finished stage."""
    # what came of it, what was left out, what it cost, in this order; nothing about zeros
    if "taken_from" in stats:
        return f"taken from {stats['taken_from']} (the same key)"
    parts = []
    if "rows_out" in stats:
        total = f" of {stats['rows_in']}" if stats.get("rows_in", 0) > stats["rows_out"] else ""
        parts.append(f"{stats['rows_out']} rows{total}")
    if "other_part" in stats:
        parts.append(f"{stats['other_part']} rows in the other part")
    if stats.get("dropped"):
        counts = [f"{count} {reason}" for reason, count in stats["dropped"].items()]
        parts.append(f"dropped {', '.join(counts)}")
    if calls := stats.get("calls"):
        replies = f"{calls['asked']} replies ({calls['from_journal']} from the journal)"
        parts.append(f"{replies}, {calls['completion_tokens']} tokens")
        if calls["failed"]:
            parts.append(f"{calls['failed']} requests refused or without a text")
        if calls.get("timed_out"):
            parts.append(f"{calls['timed_out']} requests timed out and were sent again")
        if calls.get("cost_usd"):
            parts.append(f"{cents(calls['cost_usd'])} USD")
    losses = {"validation_losses": "validation loss", "mean_losses": "mean loss"}
    for name, what in losses.items():
        if name in stats:
            first, last = stats[name]
            parts.append(f"{what} {first:.3f} -> {last:.3f}")
    parts.append(f"{stats['seconds']:.1f} s")
    return "; ".join(parts)
