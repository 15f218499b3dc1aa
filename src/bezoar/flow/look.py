"""What files of rows are, found by reading them: the source that reads them, and what it gives."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bezoar.chat.types import Comparison, Filtered
from bezoar.data import SOURCES
from bezoar.data.csv_rows import read_csv, usual_delimiter
from bezoar.data.held_out import is_held_out
from bezoar.data.locate import locate
from bezoar.data.rows import read_file, suffix
from bezoar.data.source import Source
from bezoar.data.unused_columns import UnreadTextError
from bezoar.errors import BezoarError, RecipeError
from bezoar.reading import open_bytes, user_path

_NUM_LOOKED_AT = 20
_ENCODINGS = ("utf-8", "utf-16", "cp1252")
# other names of columns, the usual one first
_NAMES = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "inputs", "user", "q"),
    "response": ("response", "answer", "completion", "output", "reply", "target", "targets", "a"),
    "chosen": ("chosen", "accepted", "preferred", "better", "good"),
    "rejected": ("rejected", "dispreferred", "worse", "bad"),
    "messages": ("messages", "conversation", "dialogue", "chat"),
    "system": ("system", "system_prompt"),
}
# columns that tell a published format
_FORMATS = (
    ("sharegpt", {"conversations"}),
    ("critiques", {"prompt", "response", "critique", "revision"}),
    ("ultrafeedback", {"prompt", "chosen", "rejected", "score_chosen", "score_rejected"}),
    ("helpsteer2", {"prompt", "response", "helpfulness", "correctness", "verbosity"}),
    ("alpaca", {"instruction", "output"}),
    ("dolly", {"instruction", "context", "response"}),
)
_SHARES = (0.1, 0.2, 0.3, 0.5)
_FEW_HELD_OUT = 8  # fewer pairs show no difference, whatever it is


@dataclass(frozen=True)
class FoundRows:
    """A file or folder of rows as a source of a recipe, read to its end."""

    path: Path
    source: Source[Any]
    columns: tuple[str, ...]
    taken: Filtered[Any]

    @property
    def are_pairs(self) -> bool:
        """Whether the rows are comparisons; else they are chats."""
        return isinstance(self.taken.rows[0], Comparison)

    @property
    def held_out(self) -> tuple[float, int]:
        """The least share that holds out enough rows to compare models on, and how many it does;
        (0, 0) where no share leaves rows on both sides."""
        best = (0.0, 0)
        for share in _SHARES:
            num = sum(is_held_out(row, share) for row in self.taken.rows)
            if best[1] < num < len(self.taken.rows):
                best = (share, num)
            if best[1] >= _FEW_HELD_OUT:
                break
        return best

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of the source that differ from their defaults, without path and limits."""
        written = [f for f in fields(self.source) if f.name not in ("path", "kind", "limits")]
        values = {f.name: getattr(self.source, f.name) for f in written}
        return {
            f.name: list(values[f.name]) if isinstance(values[f.name], tuple) else values[f.name]
            for f in written
            if values[f.name] != f.default
        }


def look_at(path: str) -> FoundRows:
    """The rows of a file or folder. RecipeError if no kind of source reads them."""
    place = user_path(path).resolve()
    if not place.exists():
        advice = "name files of rows, a model's folder, or MODEL@URL for a server"
        raise RecipeError(f"{path}: no such file or folder; {advice}.")
    first = locate(place, Path())[0].path
    assert first is not None  # of a folder or file on this machine
    faults: list[str] = []
    for kind, keys, columns in _guesses(first):
        try:
            source = SOURCES[kind](str(place), **keys)
            source, taken = _read(source)
        except (BezoarError, ValueError) as error:
            faults.append(f"as {kind}: {error}")
            continue
        if taken.rows:
            return FoundRows(place, source, columns, taken)
        reasons = {item.reason for item in taken.dropped}
        faults.append(f"as {kind}: every row would be dropped ({', '.join(sorted(reasons))})")
    raise RecipeError(f"{path}: no kind of source reads these rows: {faults[0]}")


def _read(source: Source[Any]) -> tuple[Source[Any], Filtered[Any]]:
    """All rows; columns that no key can name are ignored, which the recipe shows."""
    while True:
        try:
            return source, source.load()
        except UnreadTextError as error:
            source = replace(source, ignore=(*source.ignore, *error.columns))


def _guesses(file: Path) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """(kind, keys, columns) of the sources that may read a file, the likeliest first."""
    end = suffix(file)
    generic = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}.get(end, "jsonl")
    keys: dict[str, Any] = {}
    placed: Iterator[tuple[Any, Any]]
    if generic == "csv" or not end:
        generic, keys = "csv", _sheet(file)
        placed = read_csv(file, **keys)
    else:
        placed = read_file(file, file.name)
    rows = [row for _, row in islice(placed, _NUM_LOOKED_AT)]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        raise RecipeError(f"{file}: the file holds no rows; name another.")
    chosen = str(rows[0].get("chosen")) if {"chosen", "rejected"} <= set(columns) else ""
    if chosen.lstrip().startswith("Human:"):
        yield "hh_rlhf", {}, columns
    # a published format is read from CSV too, if it is written as most are
    if keys.get("delimiter", ",") == "," and "encoding" not in keys and end != ".tsv":
        for kind, needed in _FORMATS:
            if needed <= set(columns):
                yield kind, {}, columns
    names = {key: next((n for n in known if n in columns), key) for key, known in _NAMES.items()}
    yield generic, {**keys, **{key: name for key, name in names.items() if key != name}}, columns


def _sheet(file: Path) -> dict[str, Any]:
    """The delimiter and the encoding of a CSV file, where they are not the usual ones."""
    encoding = next((name for name in _ENCODINGS if _is_text(file, name)), "")
    if not encoding:
        raise RecipeError(f"{file}: no text of {', '.join(_ENCODINGS)}; save it as UTF-8.")
    with open_bytes(file, marked=True) as stream:
        header = stream.readline(1 << 16).decode(encoding, "ignore")
    usual = usual_delimiter(file)
    delimiter = max((usual, ",", ";", "\t", "|"), key=header.count)
    keys = {} if delimiter == usual else {"delimiter": delimiter}
    return keys if encoding == "utf-8" else {**keys, "encoding": encoding}


def _is_text(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_bytes(file, marked=True) as stream:
            while block := stream.read(1 << 16):
                decoder.decode(block)
            decoder.decode(b"", True)
    except UnicodeError:
        return False
    return True
