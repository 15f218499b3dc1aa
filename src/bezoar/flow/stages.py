"""How each category of stage is carried out: read its inputs, do the work, write files into a
folder."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bezoar.chat.types import Chat, Dropped, Filtered, as_chats, count_reasons
from bezoar.errors import DataError, UnfinishedError
from bezoar.flow.recipe import Recipe
from bezoar.flow.references import located
from bezoar.flow.rundir import RunDir
from bezoar.io import write_json, write_jsonl
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Backend
from bezoar.parquet import write_parquet
from bezoar.progress import Progress

Stats = dict[str, Any]


@dataclass
class StageContext:
    """All that a stage needs to run."""

    recipe: Recipe
    run: RunDir
    name: str
    progress: Progress
    journal: Journal
    budget: Budget

    @property
    def stage(self) -> Any:
        """The component, with its files as absolute paths."""
        return located(self.recipe.stages[self.name], self.recipe.path.parent)

    def ask(self, backend: str) -> Pool:
        """The pool of a language model of the recipe."""
        return Pool(
            self.recipe.backends[backend].open(),
            self.journal,
            self.budget,
            self.progress,
            stage=self.name,
        )


def carry_out(work: StageContext, out: Path, work_dir: Path) -> Stats:
    """Run one stage into `out` and return its statistics, which are also written to stats.json."""
    started = time.monotonic()
    category = work.recipe.category(work.name)
    stats: Stats
    if category == "source":
        stats = _write_sifted(work.stage.load(work.recipe.path.parent), out)
    elif hasattr(work.stage, "by_model"):
        stats = _by_model(work, out)
    elif category == "scheme":
        stats = _scheme(work, out)
    elif category == "filter":
        stats = _filter(work, out)
    elif category == "train":
        stats = _train(work, out, work_dir)
    else:
        stats = _evaluate(work, out, work_dir)
    stats = {"seconds": round(time.monotonic() - started, 2), **stats}
    write_json(out / "stats.json", stats)
    if stats.get("rows_out") == 0:
        _refuse_nothing(stats, out)
    return stats


def _refuse_nothing(stats: Stats, out: Path) -> None:
    """A stage without a single row is no success: nothing that reads it could do its work."""
    if stats.get("calls", {}).get("refused_by_budget"):
        raise UnfinishedError(
            "the budget is spent before one row was made; raise budget_usd and run the same command"
            " to go on."
        )
    reasons = (
        ", ".join(f"{count} {reason}" for reason, count in stats["dropped"].items())
        or "there were none"
    )
    raise DataError(
        f"kept none of {stats['rows_in']} rows ({reasons}); see {out / 'failures.jsonl'}, then"
        " change the stage or what it reads."
    )


def _write_sifted(sifted: Filtered[Any], out: Path, rows_in: int | None = None) -> Stats:
    write_parquet(out / "rows.parquet", [item.to_row() for item in sifted.rows])
    write_jsonl(out / "failures.jsonl", [asdict(d) for d in sifted.dropped])
    total = len(sifted.rows) + len(sifted.dropped) if rows_in is None else rows_in
    return {
        "rows_in": total,
        "rows_out": len(sifted.rows),
        "dropped": count_reasons(sifted.dropped),
    }


def _scheme(work: StageContext, out: Path) -> Stats:
    stage, items = work.stage, work.run.items(work.stage.seeds)
    seeds = items if getattr(stage, "any_rows", False) else as_chats(items)
    pool = work.ask(stage.teacher)
    sifted = stage.generate(seeds, pool.ask_all, seed=work.recipe.seed)
    return {**_write_sifted(sifted, out, len(seeds)), "calls": pool.counts()}


def _by_model(work: StageContext, out: Path) -> Stats:
    """A scheme or filter that opens models itself."""
    stage, recipe = work.stage, work.recipe
    rows = work.run.items(stage.seeds if hasattr(stage, "seeds") else stage.rows)
    sifted = stage.by_model(
        rows, models(work), recipe.template, progress=work.progress, seed=recipe.seed
    )
    return _write_sifted(sifted, out, len(rows))


def models(work: StageContext) -> Callable[[str], Any]:
    """What opens a model of the recipe as a stack, each once."""
    from bezoar.model.stack import Stack

    @cache
    def open_model(name: str) -> Stack:
        return Stack(*work.run.model(work.recipe, name))

    return open_model


def _filter(work: StageContext, out: Path) -> Stats:
    stage, items = work.stage, work.run.items(work.stage.rows)
    if not getattr(stage, "judge", ""):
        return _write_sifted(
            stage.sift(items if getattr(stage, "any_rows", False) else as_chats(items)),
            out,
            len(items),
        )
    rows = as_chats(items)
    pool = work.ask(stage.judge)
    judged = stage.judge_rows(rows, pool.ask_all)
    left_out = [*judged.rejected, *judged.unparsed]
    write_parquet(out / "rejected.parquet", [chat.to_row() for chat in left_out])
    sifted = Filtered(
        judged.accepted,
        [Dropped(c.id, c.meta["verdict"], c.meta.get("reason", "")) for c in left_out],
    )
    return {
        **_write_sifted(sifted, out, len(rows)),
        "calls": pool.counts(),
        **_agreement(work, [*judged.accepted, *left_out]),
    }


def _agreement(work: StageContext, rows: list[Chat]) -> Stats:
    """How far repeated ratings of the rows agree, said aloud; nothing where there are none."""
    from bezoar.evals.agreement import ratings_agreement

    scores = ratings_agreement(rows)
    for score in scores:
        work.progress.say(f"  {work.name}: {score}")
    return {"agreement": [vars(score) for score in scores]} if scores else {}


def _train(work: StageContext, out: Path, work_dir: Path) -> Stats:
    from bezoar.train.train import StageInputs

    spec, adapters = work.run.model(work.recipe, work.stage.model)
    rows = work.run.stored_rows(work.stage.rows)
    judge = getattr(work.stage, "reward", None)
    where = StageInputs(
        spec,
        adapters,
        work.recipe.template,
        work_dir,
        out,
        work.run.model(work.recipe, judge) if judge else None,
    )
    stats: Stats = work.stage.run(rows, where, progress=work.progress, seed=work.recipe.seed)
    return stats


def _evaluate(work: StageContext, out: Path, work_dir: Path) -> Stats:
    from bezoar.evals.outcome import EvalContext, write_outcome
    from bezoar.llm.local import StackBackend

    recipe, pools, open_model = work.recipe, dict[str, Pool](), models(work)

    def pool(name: str, backend: Backend) -> Pool:
        return pools.setdefault(
            name, Pool(backend, work.journal, work.budget, work.progress, stage=work.name)
        )

    given = EvalContext(
        template=recipe.template,
        open_model=open_model,
        ask_model=lambda name: (
            pool(f"model {name}", StackBackend(open_model(name), recipe.template)).ask_all
        ),
        ask=lambda name: pool(name, recipe.backends[name].open()).ask_all,
        rows=work.run.items,  # type: ignore[arg-type]
        progress=work.progress,
        seed=recipe.seed,
        work_dir=work_dir,
        identity=lambda name: str(recipe.backends[name].identity),
    )
    outcome = work.stage.run(given)
    write_outcome(out, work.stage.model, outcome)
    counts = [p.counts() for p in pools.values()]
    return {"calls": {key: sum(c[key] for c in counts) for key in counts[0]}} if counts else {}
