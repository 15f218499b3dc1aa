"""Data sets of the Hub: rows as a stream, or by row group; without remote code."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bezoar.data.rows import Placed, RowOrigin
from bezoar.errors import DataError, brief, first_line

# where the Hub keeps the rows of a repository that has a loading script, as CONFIG/SPLIT/*.parquet
_COPIES = "refs/convert/parquet"
_COPY = re.compile(r"([^/]+)/([^/]+)/[^/]+\.parquet")
_BATCH = 500
_IS_SCRIPT = "Dataset scripts are no longer supported"


@dataclass
class RowGroup:
    """A row group of a split's Parquet files: the `first` number of its rows, and the least and
    the greatest text in the column that was asked for."""

    file: Any
    index: int
    label: str
    split: str
    first: int
    texts: tuple[str, ...]

    def rows(self) -> Iterator[Placed]:
        """Its rows; they have the origins that they have in a stream of the split."""
        number = self.first - 1
        try:
            for batch in self.file.iter_batches(_BATCH, row_groups=[self.index]):
                for row in batch.to_pylist():
                    number += 1
                    yield RowOrigin(f"{self.label}: row {number}", self.label, number), row
        except Exception as error:
            raise _fault(self.label, number, error) from None


def read_hub(dataset: str, label: str, split: str, options: dict[str, str]) -> Iterator[Placed]:
    """The rows of a split, of several joined by `+`, or of `all`, streamed; `options`: `name` or
    `data_dir`. Of a repository with only a loading script the Hub's Parquet copy is read."""
    datasets = _library(dataset)
    number = 0
    try:
        try:
            stream = datasets.load_dataset(dataset, split=split, streaming=True, **options)
        except RuntimeError as error:
            if _IS_SCRIPT not in str(error):
                raise
            copy = _copy(dataset, *options.values())
            stream = datasets.load_dataset(dataset, split=split, streaming=True, **copy)
        for number, row in enumerate(stream, 1):
            yield RowOrigin(f"{label}: row {number}", label, number), dict(row)
    # the loader's libraries raise dozens of types, for a wrong name as for a lost connection
    except Exception as error:
        raise _fault(label, number, error) from None


def num_rows(dataset: str, split: str, options: dict[str, str]) -> int | None:
    """The rows of such splits by the card of the data set; None where it does not say."""
    splits = _library(dataset).load_dataset_builder(dataset, **options).info.splits or {}
    names = list(splits) if split == "all" else split.split("+")
    known = [int(splits[name].num_examples) for name in names if name in splits]
    return sum(known) if known and len(known) == len(names) else None


def row_groups(
    dataset: str, split: str, options: dict[str, str], column: str
) -> list[RowGroup] | None:
    """The row groups of the split's Parquet files, of which only the ends are read.

    None where the rows lie in another form or cannot be had: `read_hub` says why.
    """
    datasets = _library(dataset)
    from huggingface_hub import HfFileSystem
    from pyarrow.parquet import ParquetFile

    groups = []
    try:
        files = datasets.load_dataset_builder(dataset, **options).config.data_files
        for name in files if split == "all" else split.split("+"):
            label = "/".join([dataset, *options.values(), name])
            first = 1
            for url in files[name]:
                # without a cache, which would read far more than the ranges that are asked for
                stream = HfFileSystem().open(str(url), cache_type="none")
                file = ParquetFile(stream, pre_buffer=True)
                place = file.schema_arrow.names.index(column)
                for index in range(file.metadata.num_row_groups):
                    group = file.metadata.row_group(index)
                    known = group.column(place).statistics
                    texts = (known.min, known.max) if known and known.has_min_max else ("", "")
                    groups.append(RowGroup(file, index, label, name, first, tuple(set(texts))))
                    first += group.num_rows
    except Exception:
        return None
    return groups


def _library(dataset: str) -> Any:
    try:
        import datasets
    except ImportError:
        what = "reading the Hub needs the package datasets; install bezoar[train]"
        raise DataError(f"{dataset}: {what}.") from None
    # a README without a head is nothing that a reader of its rows could mend
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    return datasets


def _copy(dataset: str, subset: str = "") -> dict[str, Any]:
    """What the library is told to read the Parquet copy of a subset, or of the only one."""
    from huggingface_hub import HfApi

    subsets: dict[str, dict[str, list[str]]] = {}
    tree = HfApi().list_repo_tree(dataset, repo_type="dataset", revision=_COPIES, recursive=True)
    for entry in tree:
        if found := _COPY.fullmatch(entry.path):
            name, split = found.groups()
            subsets.setdefault(name, {}).setdefault(split, []).append(entry.path)
    names = ", ".join(subsets) or "none"
    if subset not in subsets and (subset or len(subsets) != 1):
        fault = "it has only a loading script, which is never run"
        raise ValueError(f"{fault}; the subsets of its Parquet copy are {names}")
    return {"revision": _COPIES, "data_files": subsets.get(subset) or next(iter(subsets.values()))}


def _fault(label: str, number: int, error: Exception) -> DataError:
    where = "cannot be opened" if number == 0 else f"broke off after row {number}"
    hint = "check its name, subset, split and the connection"
    why = first_line(error)
    if why == "Config name is missing":
        # the second line names the subsets
        why, hint = brief(" ".join(str(error).split("\n")[:2])), "name one of them as subset"
    elif "gated" in why:
        hint = "accept its terms on its page on the Hub, and set HF_TOKEN to your token"
    return DataError(f"{label}: the Hub dataset {where} ({why}); {hint}.")
