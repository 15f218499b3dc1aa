"""Columns that hold words and that nothing reads: an error, so that no text is lost in silence."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from bezoar.chat.types import Chat, Comparison
from bezoar.data.near_duplicates import words
from bezoar.data.rows import RowOrigin
from bezoar.errors import DataError
from bezoar.io import Row

ALL_COLUMNS = "*"
METADATA = frozenset(
    {
        *("source", "dataset", "category", "subcategory", "task", "topic", "title", "generator"),
        *("model", "model_name", "language", "lang", "licence", "license", "hash", "idx", "url"),
    }
)
"""Columns that say where a row of a published data set comes from."""
_SPEAKERS = ("role", "from")
# columns that tell which kind reads the rows as a whole
_KINDS = {
    "alpaca": {"instruction", "input", "output"},
    "dolly": {"instruction", "context", "response"},
    "sharegpt": {"conversations"},
    "critiques": {"critique", "revision"},
}


class UnreadTextError(DataError):
    """Text in columns that nothing reads; `columns` are their names."""

    columns: tuple[str, ...] = ()


class WatchedRow(Row):
    """A row that knows which of its columns were read."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a column, or `default`."""
        self.read.add(name)
        return super().get(name, default)


@dataclass
class UnusedColumns:
    """What of a source's rows nothing reads.

    `passed` are columns of its format that are not trained on, `ignore` those that the recipe
    leaves out (`*`: all), `keys` the keys of the kind that name columns.
    """

    passed: Collection[str]
    ignore: Collection[str]
    keys: Collection[str]
    met: set[str] = field(default_factory=set)

    def meet(self, row: WatchedRow) -> None:
        """Take note of the ignored columns that a row has."""
        if self.ignore:
            self.met |= (row.keys() - row.read).intersection(self.ignore)

    def check(self, row: WatchedRow, item: Chat | Comparison, at: RowOrigin) -> None:
        """DataError for text that is in no part of `item`; ids and known columns may be unused."""
        unread = row.keys() - row.read
        if ALL_COLUMNS in self.ignore or not unread:
            return
        known = {"id", *self.passed, *self.ignore}
        lost = [
            name
            for name in row
            if name in unread and name not in known and not name.endswith("_id")
            # a prompt beside the conversation that begins with it
            if not all(_is_within(text, item) for text in _texts(row[name]))
        ]
        if lost:
            error = UnreadTextError(str(at.wrong(self._sentence(lost, row))))
            error.columns = tuple(lost)
            raise error

    def idle(self) -> str:
        """What is wrong with `ignore` once all rows are read, or the empty string."""
        idle = sorted(set(self.ignore) - self.met - {ALL_COLUMNS})
        fault = f"no row has a column {idle[0]!r} that is not read" if idle else ""
        return fault and f"{fault}; remove it from ignore."

    def _sentence(self, lost: list[str], row: Row) -> str:
        names = ", ".join(repr(name) for name in lost)
        is_one = len(lost) == 1
        what = f"the column {names} holds" if is_one else f"the columns {names} hold"
        kinds = [kind for kind, own in _KINDS.items() if own & set(lost) and own <= row.keys()]
        it = "it" if is_one else "them"
        advice = [f"use kind {kinds[0]}"] if kinds else []
        if self.keys and not kinds:
            advice = [f"name {it} by one of the keys {', '.join(self.keys)}"]
        advice.append(f"leave {it} out by `ignore: [{', '.join(lost)}]`")
        return f"{what} text that is not read; {', or '.join(advice)}."


def _is_within(text: str, item: Chat | Comparison) -> bool:
    if isinstance(item, Chat):
        parts = [message.content for message in item.messages]
    else:
        parts = [*(message.content for message in item.prompt), item.chosen, item.rejected]
    if any(text in part for part in parts):
        return True
    # spelt with other spaces or capitals
    own = " ".join(words(text))
    return bool(own) and any(own in " ".join(words(part)) for part in parts)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value that is not blank, without the names of speakers."""
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _SPEAKERS:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
