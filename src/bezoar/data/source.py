"""What every source of rows shares: where the rows come from, which of them are taken, and what is
counted."""

import json
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self

from bezoar.chat.types import Chat, Dropped, Filtered, Message, Messages
from bezoar.cost import Estimate, Quote, exactly
from bezoar.data.locate import DataFile, is_hub_id, locate
from bezoar.data.rows import Placed, RowOrigin
from bezoar.data.subset import ItemT, Subset
from bezoar.errors import DataError
from bezoar.parquet import num_rows
from bezoar.reading import Limits, Row

_SMALL_BYTES = 1 << 25
_META = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class RowWriter(Protocol):
    """The part of a `stage.StageContext` that a source needs."""

    def write_rows(self, filtered: Filtered[Any], num_read: int | None = None) -> dict[str, Any]:
        """Write rows.parquet and failures.jsonl, and count them."""


@dataclass(frozen=True)
class Source(Generic[ItemT]):
    """Rows of `path`: a file or folder (relative to the recipe), `bezoar:NAME` for seeds of the
    package, or a Hub id.

    `subset` and `split` choose a part of a Hub dataset (`split` is `train` where it is empty);
    where the environment names a mirror in BEZOAR_DATA, a Hub id that the mirror knows is read from
    there. With `shuffle_seed` the rows are in an order that depends on their content and the seed
    alone; `skip` rows are passed over and `limit` are taken, so that two sources with one seed and
    neighbouring windows share no row. Files are read as a stream.

    Texts lose white space at both ends; null counts as empty. A row without prompt or answer, and
    an exact duplicate of an earlier row, are dropped and counted. A row that does not fit the
    format at all (a missing column, a wrong type, broken JSON, more than one of the `limits` of a
    file) is a DataError with file and line.
    """

    path: str
    subset: str = ""
    split: str = ""
    skip: int = 0
    limit: int | None = None
    shuffle_seed: int | None = None
    limits: Limits = field(default_factory=Limits)
    subset_is: ClassVar[str] = "name"
    gives: ClassVar[Literal["rows"]] = "rows"
    renders: ClassVar[bool] = False
    _folder: ClassVar[Path] = Path()

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty; name a file, a folder, bezoar:NAME or a Hub id")
        if not is_hub_id(self.path):
            for name in ("subset", "split"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} has an effect with a Hub id alone, and path is {self.path!r};"
                        " remove it"
                    )
        if self.skip < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError("skip must be at least 0 and limit at least 1")

    def read(self, row: Row, at: RowOrigin) -> ItemT | Dropped:
        """What one row of the format becomes."""
        raise NotImplementedError

    def below(self, folder: Path) -> Self:
        """The same source with a relative path read against `folder`, in place of the current one.

        The key `path` stays as it was written: it begins the ids of rows.
        """
        placed = copy(self)
        object.__setattr__(placed, "_folder", folder)
        return placed

    def run(self, context: RowWriter) -> dict[str, Any]:
        """Read the rows and write them."""
        return context.write_rows(self.load())

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """As many rows as the files hold; no requests."""
        return Quote(exactly(self.count()))

    def load(self) -> Filtered[ItemT]:
        """The rows that are taken, and those that were dropped on the way."""
        return self._window().take(self._read_all())

    def files(self) -> list[Path]:
        """The files whose content the rows depend on; none for a dataset on the Hub."""
        return [place.path for place in self._places() if place.path is not None]

    def count(self) -> int:
        """The number of rows that `load` gives; for large JSON Lines and Parquet a bound from
        above, for the Hub `limit` or 0."""
        files = self.files()
        if not files:
            return self.limit or 0
        small = sum(file.stat().st_size for file in files) <= _SMALL_BYTES
        if small or any(file.suffix not in (".jsonl", ".parquet") for file in files):
            return len(self.load().rows)
        most = max(0, sum(_num_rows(file) for file in files) - self.skip)
        return min(most, self.limit or most)

    def _window(self) -> Subset:
        return Subset(self.skip, self.limit, self.shuffle_seed)

    def _places(self) -> list[DataFile]:
        return locate(
            self.path, self._folder, subset=self.subset, split=self.split, subset_is=self.subset_is
        )

    def _read_all(self) -> Iterator[ItemT | Dropped]:
        for place in self._places():
            self._check_size(place.path)
            for at, row in self._rows(place):
                item = self.read(row, at)
                if not isinstance(item, Dropped):
                    item.meta.update({"source": at.label, "line": at.line})
                    if place.licence:
                        item.meta["licence"] = place.licence
                    _check_meta(item.meta, at)
                yield item

    def _check_size(self, path: Path | None) -> None:
        """DataError for a Parquet file that would be read to its end and has too many rows, before
        the first is read."""
        whole = self.limit is None or self.shuffle_seed is not None
        if path and path.suffix == ".parquet" and whole and num_rows(path) > self.limits.rows:
            raise DataError(
                f"{path}: the file holds {num_rows(path):,} rows; take fewer with limit, or raise"
                " limits.rows."
            )

    def _rows(self, place: DataFile) -> Iterator[Placed]:
        return place.rows(self.limits)


def _check_meta(meta: dict[str, Any], at: RowOrigin) -> None:
    """DataError for what cannot be written down: Parquet and the Hub have values that JSON has
    not."""
    try:
        _META.encode(meta).encode()
    except (TypeError, ValueError, RecursionError):
        raise at.wrong(
            "what goes to the row's meta is no JSON (NaN, bytes, a date, half of a surrogate pair);"
            " mend the row."
        ) from None


def _num_rows(file: Path) -> int:
    if file.suffix == ".parquet":
        return num_rows(file)
    with file.open("rb") as stream:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def chat(prompt: str, answer: str, at: RowOrigin, meta: dict[str, Any]) -> Chat | Dropped:
    """A chat of one turn; Dropped when a side is empty."""
    if not prompt or not answer:
        return Dropped(at.id, "empty answer" if prompt else "empty prompt", at.text)
    return Chat(at.id, user_then_assistant(prompt, answer), meta)


def user_then_assistant(prompt: str, answer: str) -> Messages:
    """Two messages."""
    return (Message("user", prompt), Message("assistant", answer))
