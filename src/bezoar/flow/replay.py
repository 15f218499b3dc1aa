"""What a plan knows from the journal: stages carried out with the replies that are there, asking
nobody, so that what was paid for is not quoted again."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from bezoar.chat.types import AnyRow
from bezoar.cost import Quote, exactly, has_price
from bezoar.data.source import Source
from bezoar.errors import BezoarError
from bezoar.flow.recipe import Recipe
from bezoar.flow.run_context import RunContext
from bezoar.flow.rundir import RunDir, StoredRows
from bezoar.judge.stages import JudgeFilter
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.journal_upkeep import JournalUpkeep
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from bezoar.stage import Rows


class _UnknownError(Exception):
    """Requests without a reply: how many, and how many have one."""

    def __init__(self, num_missing: int, num_known: int) -> None:
        self.num_missing, self.num_known = num_missing, num_known


@dataclass
class _Replies:
    """A language model that knows only the journal."""

    identity: str
    journal: Journal
    num_known: int = 0
    # what is missing is counted over all of a stage
    whole: ClassVar[bool] = True

    def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies; _UnknownError unless all are there."""
        keys = [request.key(self.identity) for request in requests]
        known = self.journal.get_many(keys)
        self.num_known += len(known)
        missing = set(keys) - known.keys()
        if missing:
            raise _UnknownError(len(missing), self.num_known)
        return [known[key] for key in keys]


@dataclass
class ReplayContext(RunContext):
    """The context of a stage that reads finished stages and those that were carried out here."""

    replayed: Mapping[str, Path] = field(default_factory=dict)

    def rows(self, name: str) -> list[AnyRow]:
        return list(self.stored_rows(name))

    def stored_rows(self, name: str) -> Rows:
        if name in self.replayed:
            return StoredRows(self.replayed[name] / "rows.parquet")
        return self.run.stored_rows(name)

    def ask(self, backend: str) -> Any:
        return _Replies(self.identity(backend), self.journal)


@dataclass
class Replay:
    """Stages of a recipe, carried out in the folder `place` with the replies of `journal`.

    `current` are those that are finished. The stages must be asked for in their order.
    """

    recipe: Recipe
    run: RunDir
    journal: JournalUpkeep
    place: Path
    current: Set[str]
    replayed: dict[str, Path] = field(default_factory=dict)

    def num_rows(self, name: str) -> int | None:
        """The rows that a stage will give, where all it asks is answered; None where that is not
        known. _UnknownError where it asks what is not."""
        stage, inputs = self.recipe.stages[name], self.recipe.inputs(name)
        reads = [ref.name for ref in inputs if ref.kind == "rows"]
        known = all(read in self.replayed or read in self.current for read in reads)
        # a model's answers depend on weights, and a Hub data set would be fetched
        if stage.gives != "rows" or not known or any(ref.kind == "model" for ref in inputs):
            return None
        if isinstance(stage, Source) and not (stage.files() and stage.is_small()):
            return None
        out, progress = self.place / name, Progress(name)
        out.mkdir()
        budget, folders = Budget(0.0), (out, self.place)
        context = ReplayContext(
            self.recipe, self.run, name, progress, self.journal, budget, *folders
        )
        context.replayed = self.replayed
        try:
            stats = stage.run(context)
        except (BezoarError, OSError):
            return None  # the run itself says what is wrong
        self.replayed[name] = out
        return int(stats["rows_out"])

    def quote(self, name: str, quote: Quote) -> Quote:
        """What a stage gives and still asks; `quote` where the journal does not tell."""
        try:
            num_rows = self.num_rows(name)
        except _UnknownError as unknown:
            total = sum(calls.num.expected for _, calls in quote.requests) or 1.0
            # what a scheme asks later depends on replies that are not there yet
            share = max(total - unknown.num_known, unknown.num_missing) / total
            if isinstance(self.recipe.stages[name], JudgeFilter) and len(quote.requests) == 1:
                backend, calls = quote.requests[0]
                return Quote(
                    quote.rows, [(backend, replace(calls, num=exactly(unknown.num_missing)))]
                )
            left = [(who, replace(calls, num=calls.num * share)) for who, calls in quote.requests]
            return Quote(quote.rows, left)
        return quote if num_rows is None else Quote(exactly(num_rows))


@contextmanager
def replaying(recipe: Recipe, run: RunDir, current: Set[str]) -> Iterator[Replay | None]:
    """A replay for a plan; None where no language model that costs money has answered yet."""
    priced = [backend.identity for backend in recipe.backends.values() if has_price(backend)]
    if not priced or run.journal is None:
        yield None
        return
    with JournalUpkeep(run.journal) as journal, TemporaryDirectory(prefix="bezoar-plan-") as place:
        has_replies = any(journal.answered(identity) for identity in priced)
        yield Replay(recipe, run, journal, Path(place), current) if has_replies else None
