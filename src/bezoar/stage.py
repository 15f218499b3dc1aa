"""A stage of a recipe, and what it is given to run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from bezoar.chat.ratings import Ratings
from bezoar.chat.row_types import ANY, RowNeed, RowType
from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, ItemT, Messages
from bezoar.cost import Estimate, Quote
from bezoar.io import read_jsonl
from bezoar.model.spec import ModelSpec, Sampling
from bezoar.progress import Progress

if TYPE_CHECKING:
    from bezoar.llm.pool import Pool
    from bezoar.model.stack import Stack

Gives = Literal["rows", "model", "scores"]
Outputs = tuple[str, ...]
"""The names of the numbers that a score head gives."""
PART_ROWS = 1 << 16
"""Rows that a stage asks language models about at once, some 300 MB with their replies. The end of
a part waits for its last answers, with ever fewer in flight: smaller parts wait more often."""
Stats = dict[str, Any]
"""The counts of a finished stage, JSON values; stats.json holds them."""


class Rows(Protocol):
    """Rows that can be gone through any number of times, in memory or in a file."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[AnyRow]: ...


def in_parts(rows: Iterable[ItemT], *, whole: bool = False) -> Iterator[list[ItemT]]:
    """`rows` in lists of PART_ROWS; `whole`: all in one."""
    left = iter(rows)
    while part := list(islice(left, None if whole else PART_ROWS)):
        yield part


class TrainedStage(NamedTuple):
    """A finished training stage: the model that it started from, and the stage of its rows."""

    name: str
    model: str
    rows: str
    folder: Path | None = None
    """Its output, where a run has it."""

    def ids(self, file: str) -> frozenset[str]:
        """The ids in one of its files of rows, `failures.jsonl` or `validation.jsonl`."""
        path = self.folder / file if self.folder else None
        if path is None or not path.is_file():
            return frozenset()
        return frozenset(str(row.get("id")) for _, row in read_jsonl(path, broken=[]))


class StageContext(Protocol):
    """What a stage reads, by the names in its recipe keys, and where its output goes.

    `out_dir` receives the output and takes its place when the stage returns; `work_dir` is kept
    between kills and belongs to this stage with these settings; `shared_dir` outlives the stage,
    for files whose names say all that their content depends on.
    """

    # a protocol, not the class of flow/: stages lie above runs in the layers, and tests give toys
    name: str
    progress: Progress
    out_dir: Path
    work_dir: Path

    @property
    def shared_dir(self) -> Path:
        """The folder that the stages of a run share."""

    @property
    def seed(self) -> int:
        """The seed of the recipe."""

    @property
    def template(self) -> Template:
        """The template of the recipe."""

    def rows(self, name: str) -> list[AnyRow]:
        """The rows of a finished stage."""

    def stored_rows(self, name: str) -> Rows:
        """The rows of a finished stage, read from their file whenever they are gone through."""

    def model(self, name: str) -> tuple[ModelSpec, list[Path]]:
        """The base and the adapters, lowest first, of a model or a training stage's result."""

    def lineage(self, name: str) -> list[TrainedStage]:
        """The training stages that made a model, lowest first; none for one of `models:`."""

    def train(self, stage: Any, rows: Rows, inputs: Any) -> Stats:
        """`stage.fit(rows, inputs)`, where its `launch` or the recipe's says."""

    def open_model(self, name: str) -> Stack:
        """The same model, loaded; each is opened once."""

    def ask(self, backend: str) -> Pool:
        """A language model of the recipe, behind the journal and the budget."""

    def ask_model(self, name: str) -> Pool:
        """A model of the recipe as a language model, behind the same journal."""

    def draw(
        self, name: str, prompts: Sequence[Messages], sampling: Sampling, num: int
    ) -> list[list[tuple[str, bool]] | None]:
        """`num` answers of a model to each prompt and whether they ended; None without room."""

    def identity(self, backend: str) -> str:
        """What names a language model and all that changes its answers."""

    def accepted(self, rows: Sequence[Chat]) -> Collection[str]:
        """The ids of those that all filters behind this stage keep, one on the other."""

    def agreement(self, ratings: Ratings) -> Stats:
        """How far repeated ratings of rows agree, printed; empty without such ratings."""

    def write_rows(self, filtered: Filtered[Any], num_read: int | None = None) -> Stats:
        """Write rows.parquet and failures.jsonl, and count them."""

    def write_each(self, results: Iterable[Any | Dropped], num_read: int | None = None) -> Stats:
        """The same of results as they come, of which few are in memory."""


class Stage(Protocol):
    """One step of a recipe: a frozen dataclass whose fields are its recipe keys.

    What it reads are its fields of the types RowsRef, ModelRef, BackendRef and FileRef
    (`bezoar.references`). `gives` says what others may read it as, `takes` and `row_type`
    which rows it reads and gives; a stage that `renders` depends on the recipe's template.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    gives: ClassVar[Gives]
    renders: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    """Whether it asks models of the recipe, which its `engine` may answer for."""

    @property
    def kind(self) -> str:
        """The name of the kind in recipes."""

    def files(self) -> list[Path]:
        """Files whose content changes the output, beside those that FileRef keys name."""
        return []

    def takes(self) -> Mapping[str, RowNeed]:
        """What the rows behind a key must be, by key; keys that are not there take any rows."""
        return {}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """What its rows will be, from the rows of the stages before it and the outputs of models
        with a score head; for a stage that gives rows."""
        return ANY

    def remedy(self, dropped: Mapping[str, int]) -> str:
        """What to do where no row is left, by the reasons for which rows were dropped."""
        return "change the stage or what it reads"

    def run(self, context: StageContext) -> Stats:
        """Write the output into `context.out_dir`; the statistics end up in stats.json."""

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Expected rows and requests, from the expected rows of the stages that it reads."""
