"""Reading a stage's stored replies again with the parser as it is now, asking nobody."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bezoar.errors import RecipeError, UnfinishedError
from bezoar.flow.acceptance import accepting
from bezoar.flow.cache_key import all_keys
from bezoar.flow.inspect_run import check_stage
from bezoar.flow.recipe import Recipe
from bezoar.flow.replay import ReplayContext
from bezoar.flow.rundir import RunDir, StoredRows, key_record
from bezoar.io import read_json, read_own, write_json
from bezoar.llm.begun import find_way, stored_probes
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import Endpoint, EndpointBackend
from bezoar.llm.journal_upkeep import ABSENT, JournalUpkeep
from bezoar.llm.types import Reply, Request
from bezoar.llm.vllm import Vllm
from bezoar.progress import Progress

ROWS = "rows.parquet"


@dataclass
class _Stored:
    """A language model that reads what the journal has, again, and counts what it has not."""

    backend: Any
    journal: JournalUpkeep
    num_changed: int = 0
    absent: set[str] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """What was asked by batches was asked about all rows at once."""
        return bool(getattr(self.backend, "batch", None))

    def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies; for what is not there one that failed."""
        identity = self.backend.identity
        keys = [request.key(identity) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        if isinstance(self.backend, Endpoint | Vllm):
            # no key is needed and no server started, for nothing is sent
            asked = self.backend
            server = asked.open() if isinstance(asked, Vllm) else EndpointBackend(asked, "")
            self._find_way(server)
            self.num_changed += self.journal.read_again(by_key, server.read)
        known = self.journal.get_many(by_key)
        self.absent |= by_key.keys() - known.keys()
        return [known.get(key, ABSENT) for key in keys]

    def _find_way(self, server: EndpointBackend) -> None:
        """How it goes on with begun answers, as its stored probes tell."""
        known = stored_probes(server.identity, self.journal.get_many)
        if server.way is None and known:
            server.way = find_way(known, lambda way: ABSENT)


@dataclass
class _StoredContext(ReplayContext):
    """The context of a stage whose language models are those of the journal."""

    stored: dict[str, _Stored] = field(default_factory=dict)

    def ask(self, backend: str) -> Any:
        assert isinstance(self.journal, JournalUpkeep)
        new = _Stored(self.recipe.backends[backend], self.journal)
        return self.stored.setdefault(backend, new)


def reparse(recipe: Recipe, run: RunDir, stage: str) -> list[str]:
    """Carry out a stage with the replies that the journal has, and put its rows in the place of the
    old ones where they differ; lines about what changed.

    What reads the stage is out of date then. RecipeError for a stage that asks nobody, or that
    reads rows of earlier settings; UnfinishedError, and nothing is replaced, where the parser makes
    questions that were never asked.
    """
    _check(recipe, run, stage)
    with (
        run.locked(),
        JournalUpkeep(run.journal or Path()) as journal,
        TemporaryDirectory(prefix="bezoar-reparse-") as place,
    ):
        old_folder, out = run.output_dir(stage), Path(place)
        context = _StoredContext(
            recipe, run, stage, Progress(stage), journal, Budget(0.0), out, out
        )
        stats = recipe.stages[stage].run(context)
        num_absent = sum(len(stored.absent) for stored in context.stored.values())
        num_changed = sum(stored.num_changed for stored in context.stored.values())
        told, differs = _compare(stage, StoredRows(old_folder / ROWS), out)
        told += f"; {num_changed} stored replies read otherwise, 0 requests sent"
        if num_absent:
            _outdate(run, recipe, stage, itself=True)
            what = f"{num_absent} questions that the parser makes now were never asked"
            fix = "nothing was replaced; `bezoar plan` says what they cost, `bezoar run` asks them"
            raise UnfinishedError(f"{stage}: {what} (without them: {told}); {fix}.")
        keys, parts = all_keys(recipe)
        is_current = run.stored(stage)["key"] == keys[stage]
        if not differs and is_current and _same(old_folder, out, "failures.jsonl"):
            return [told]
        if not stats["rows_out"]:
            see = "nothing was replaced; mend the parser"
            raise RecipeError(f"{stage}: no row is left ({told}); {see}.")
        # what it asked and how long it took stay those of the run that asked
        old = read_own(old_folder / "stats.json")
        write_json(out / "stats.json", {**old, **stats})
        record = key_record(keys[stage], parts[stage], recipe=recipe, name=stage)
        run.adopt(recipe, keys)
        with run.output(stage, int(old_folder.name.partition("-")[0]), record) as folder:
            shutil.copytree(out, folder, dirs_exist_ok=True)
        late = _outdate(run, recipe, stage) if differs else []
    again = f"out of date now, and made anew by `bezoar run`: {', '.join(late)}"
    return [told, *([again] if late else [])]


def _check(recipe: Recipe, run: RunDir, stage: str) -> None:
    check_stage(recipe, stage)
    run.check_owner(recipe)
    run.output_dir(stage)
    asks = any(ref.kind == "backend" for ref in recipe.inputs(stage))
    if recipe.stages[stage].gives != "rows" or not asks or run.journal is None:
        fix = "name a scheme or a filter with a teacher or a judge"
        raise RecipeError(f"{stage} makes no rows of replies that a journal holds; {fix}.")
    keys = all_keys(recipe)[0]
    for name in recipe.upstream(stage):
        if run.stored(name).get("key") != keys[name]:
            what = f"{name}, which {stage} reads, is of earlier settings"
            raise RecipeError(f"{run.path}: {what}; run the recipe first.")


def _compare(stage: str, before: StoredRows, out: Path) -> tuple[str, bool]:
    """How many rows were gained, lost and changed; whether anything differs."""
    old, new = ({row.id: row for row in rows} for rows in (before, StoredRows(out / ROWS)))
    gained, lost = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    changed = sum(old[name] != new[name] for name in old.keys() & new.keys())
    counts = f"{gained} gained, {lost} lost, {changed} changed"
    differs = list(old.values()) != list(new.values())
    return f"{stage}: {len(new)} rows, {len(old)} before; {counts}", differs


def _same(old: Path, new: Path, file: str) -> bool:
    return (old / file).is_file() and (old / file).read_bytes() == (new / file).read_bytes()


def _outdate(run: RunDir, recipe: Recipe, stage: str, *, itself: bool = False) -> list[str]:
    """Mark what was made of a stage's rows (or the stage too), so that the next run makes it anew;
    their names. The keys cannot tell: they are those of the settings, which are the same."""
    # a scheme whose rows this stage counts has to be counted anew
    late = [n for n in recipe.stages if stage in accepting(recipe.stages, n)]
    late += [stage] if itself else []
    for name in recipe.stages:
        inputs = [ref for ref in recipe.inputs(name) if ref.kind in ("rows", "model")]
        reads = [ref for ref in inputs if ref.name in (stage, *late)]
        folder = run.stage_dir(name)
        if folder is None or not (reads or name in late):
            continue
        row = read_json(folder / "key.json")
        for ref in reads:
            row["parts"][ref.path] = f"stage {ref.name} before it was read again"
        if name == stage:
            row["parts"]["replies"] = "read by an earlier parser"
        write_json(folder / "key.json", {**row, "key": "outdated"})
        late += [] if name in late else [name]
    return late
