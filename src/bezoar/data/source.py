"""What all sources share: where the rows come from, which are taken, and what is counted."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self

from bezoar.bounds import Count, Natural, Part
from bezoar.chat.row_types import RowNeed, RowType, Shape, type_of
from bezoar.chat.types import Chat, Dropped, Filtered, Message
from bezoar.cost import Estimate, Quote, exactly
from bezoar.data import hub
from bezoar.data.held_out import is_held_out
from bezoar.data.locate import DataFile, is_hub_id, locate
from bezoar.data.rows import Placed, RowOrigin
from bezoar.data.subset import ItemT, Subset
from bezoar.data.tool_turns import MalformedError
from bezoar.data.unused_columns import METADATA, UnusedColumns, WatchedRow
from bezoar.errors import DataError
from bezoar.parquet import num_rows
from bezoar.reading import Limits, Row

_SMALL_BYTES = 1 << 25
_NUM_LOOKED_AT = 1000
_META = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class RowWriter(Protocol):
    """The part of a `stage.StageContext` that a source needs."""

    def write_each(self, results: Iterable[Any | Dropped]) -> dict[str, Any]:
        """Write rows.parquet and failures.jsonl as their rows come, and count them."""


@dataclass(frozen=True)
class Source(Generic[ItemT]):
    """Rows of files or of a Hub dataset, read as a stream.

    Texts lose white space at both ends; null counts as empty. A row without prompt or answer, and
    an exact duplicate of an earlier row, are dropped and counted. A row that does not fit the
    format at all (a missing column, a wrong type, broken JSON, too long, text in a column that the
    kind does not read) is a DataError with file and line.
    """

    path: str
    """File or folder (relative to the recipe), `bezoar:NAME` (seeds of the package) or a Hub id."""
    subset: str = ""
    """Part of a Hub dataset: its configuration or, where it has these instead, data folder."""
    split: str = ""
    """Split of a Hub dataset, several joined by `+`, or `all`; "" is `train`."""
    skip: Natural = 0
    """Rows that are passed over before the first one is taken."""
    limit: Count | None = None
    """Rows that are taken; null takes all."""
    shuffle_seed: int | None = None
    """Order rows by content and this seed; windows of skip and limit with one seed share no row."""
    held_out: Part = 0.0
    """Share of conversations that this stage leaves to the stage `NAME.held_out`."""
    take_held_out: bool = False
    """Give the rows that `held_out` leaves out, as in a recipe that only evaluates."""
    ignore: tuple[str, ...] = ()
    """Columns with text that is left out on purpose; `"*"` is all that the kind does not read."""
    limits: Limits = field(default_factory=Limits)
    """Upper bounds of each file; more is an error that says which one to raise."""
    subset_is: ClassVar[str] = "name"
    # columns that published files of the kind have beside those that are read
    passed: ClassVar[frozenset[str]] = METADATA
    # keys by which a recipe names columns
    column_keys: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[Literal["rows"]] = "rows"
    renders: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    # what the rows are where they cannot be looked at, on the Hub
    shape: ClassVar[Shape | None] = "chats"
    _folder: ClassVar[Path] = Path()

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty; name a file, a folder, bezoar:NAME or a Hub id")
        for name in ("subset", "split"):
            if getattr(self, name) and not is_hub_id(self.path):
                fault = f"{name} has no effect with the path {self.path!r}"
                raise ValueError(f"{fault}, which is not a Hub id; remove it")
        if self.take_held_out and not self.held_out:
            raise ValueError("take_held_out has no effect without held_out; add it, such as 0.1")

    def read(self, row: Row, at: RowOrigin) -> ItemT | Dropped:
        """What one row of the format becomes."""
        raise NotImplementedError

    def below(self, folder: Path) -> Self:
        """The same source with a relative path read against `folder`, in place of the current one.

        The key `path` stays as it was written: it begins the ids of rows.
        """
        # not a field: the folder of a recipe is no part of a stage's key
        placed = copy(self)
        object.__setattr__(placed, "_folder", folder)
        return placed

    def takes(self) -> Mapping[str, RowNeed]:
        """A source reads no rows of others."""
        return {}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Any]) -> RowType:
        """What the first 1,000 rows of its files are; of a dataset on the Hub the shape alone."""
        if not self.files():
            return RowType(self.shape)
        # before they are put in another order; a broken row behind the last one that is taken is no
        # fault
        most = min(self.limit or _NUM_LOOKED_AT, _NUM_LOOKED_AT)
        window = Subset(0 if self.shuffle_seed is not None else self.skip, most)
        return type_of(window.take(self._read_all()).rows)

    def run(self, context: RowWriter) -> dict[str, Any]:
        """Read the rows and write those of this stage's part; says how many the other part has."""
        # how many rows there are on both sides is known when the last one has come
        is_own = Counter[bool]()
        stats = context.write_each(self.own_part(self.window(), is_own))
        if self.held_out:
            stats["other_part"] = is_own[False]
        return stats

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """As many rows as the files hold; no requests."""
        return Quote(exactly(self.count()))

    def load(self) -> Filtered[ItemT]:
        """The rows of this stage's part, and those that were dropped on the way."""
        return Filtered.split(self.own_part(self.window(), Counter()))

    def window(self) -> Iterator[ItemT | Dropped]:
        """The rows that `skip`, `limit` and `shuffle_seed` take, of both parts."""
        return self._subset().each(self._read_all())

    def own_part(
        self, taken: Iterable[ItemT | Dropped], is_own: Counter[bool]
    ) -> Iterator[ItemT | Dropped]:
        """Those of `taken` that are held out, or that are not, with the drops; `is_own` counts the
        rows of both parts."""
        for item in taken:
            if isinstance(item, Dropped):
                if not self.take_held_out:
                    yield item
                continue
            own = not self.held_out or is_held_out(item, self.held_out) == self.take_held_out
            is_own[own] += 1
            if own:
                yield item
        if is_own[False] and not is_own[True]:
            part = "the held-out part, raise" if self.take_held_out else "training, lower"
            fault = f"held_out {self.held_out:g} leaves none of {is_own[False]} rows for {part} it"
            raise DataError(f"{self.path}: {fault} or give more rows.")

    def is_small(self) -> bool:
        """Whether the rows are in files that are read in a moment."""
        files = self.files()
        return bool(files) and sum(file.stat().st_size for file in files) <= _SMALL_BYTES

    def files(self) -> list[Path]:
        """The files whose content the rows depend on; none for a dataset on the Hub."""
        return [file.path for file in self._data_files() if file.path is not None]

    def count(self) -> int:
        """The rows that `load` gives; for large files an upper bound, for the Hub `limit` or 0."""
        files = self.files()
        if not files:
            return round((self.limit or 0) * self._share)
        # small files are read, so that drops and duplicates are not counted; packed ones have to be
        if self.is_small() or any(file.suffix not in (".jsonl", ".parquet") for file in files):
            return len(self.load().rows)
        most = max(0, sum(_max_rows(file) for file in files) - self.skip)
        return round(min(most, self.limit or most) * self._share)

    def hub_rows(self) -> int | None:
        """The rows that its part of a Hub dataset has; None where the Hub does not say."""
        file = self._data_files()[0]
        return hub.num_rows(file.dataset, file.split, dict(file.options))

    @property
    def _share(self) -> float:
        """The share of the rows that this stage's part is expected to have."""
        return self.held_out if self.take_held_out else 1 - self.held_out

    def _subset(self) -> Subset:
        return Subset(self.skip, self.limit, self.shuffle_seed)

    def _data_files(self) -> list[DataFile]:
        part = {"subset": self.subset, "split": self.split, "subset_is": self.subset_is}
        return locate(self.path, self._folder, **part)

    def _read_all(self) -> Iterator[ItemT | Dropped]:
        unused = UnusedColumns(self.passed, self.ignore, self.column_keys)
        for file in self._data_files():
            self._check_size(file.path)
            yield from self._items(self._rows(file), file.licence, unused)
        # not reached where `limit` ends the reading earlier
        if problem := unused.idle():
            raise DataError(f"{self.path}: {problem}")

    def _items(
        self, rows: Iterable[Placed], licence: str, unused: UnusedColumns
    ) -> Iterator[ItemT | Dropped]:
        for at, plain_row in rows:
            row = WatchedRow(plain_row)
            try:
                item: ItemT | Dropped = self.read(row, at)
            except MalformedError as error:
                item = Dropped(at.id, error.reason, f"{at.text}: {error.detail}")
            unused.meet(row)
            if not isinstance(item, Dropped):
                unused.check(row, item, at)
                # a row keeps its origin when it is shuffled, filtered and trained
                item.meta.update({"source": at.label, "line": at.line})
                if licence:
                    item.meta["licence"] = licence
                _check_meta(item.meta, at)
            yield item

    def _rows(self, file: DataFile) -> Iterator[Placed]:
        return file.rows(self.limits)

    def _check_size(self, path: Path | None) -> None:
        """DataError, before the first row is read, if a whole Parquet file would be too long."""
        # a sample depends on every row, so it reads to the end as well
        reads_all = self.limit is None or self.shuffle_seed is not None
        if path and path.suffix == ".parquet" and reads_all and num_rows(path) > self.limits.rows:
            what = f"the file holds {num_rows(path):,} rows; take fewer with limit"
            raise DataError(f"{path}: {what}, or raise limits.rows.")


def _check_meta(meta: dict[str, Any], at: RowOrigin) -> None:
    # Parquet and the Hub have values that JSON has not
    try:
        _META.encode(meta).encode()
    except (TypeError, ValueError, RecursionError):
        odd = "NaN, bytes, a date, half of a surrogate pair"
        raise at.wrong(f"what goes to the row's meta is no JSON ({odd}); mend the row.") from None


def _max_rows(file: Path) -> int:
    if file.suffix == ".parquet":
        return num_rows(file)
    with file.open("rb") as stream:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def chat(prompt: str, answer: str, at: RowOrigin, meta: dict[str, Any]) -> Chat | Dropped:
    """A chat of one turn; Dropped when a side is empty."""
    if not prompt or not answer:
        return Dropped(at.id, "empty answer" if prompt else "empty prompt", at.text)
    return Chat(at.id, (Message("user", prompt), Message("assistant", answer)), meta)
