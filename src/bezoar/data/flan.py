"""The FLAN collection (arXiv 2301.13688): tasks of four sub-mixes, the seeds of the Orca scheme."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Dropped, Filtered
from bezoar.data.flan_shapes import flan2021_in_p3, uniform
from bezoar.data.locate import DataFile
from bezoar.data.rows import Placed, RowOrigin
from bezoar.data.source import Source, chat
from bezoar.io import Row


@dataclass(frozen=True)
class Flan(Source[Chat]):
    """Zero-shot tasks as chats; `meta` holds submix (cot, niv2, t0, flan2021), task_name,
    template_type and more.

    Files may have any of the published shapes, also mixed in one folder: JSON Lines with inputs,
    targets and submix or task_source; chain-of-thought `.tsv` (input, target, rationale); P3 rows
    (template, prompt, completion); Natural Instructions task files. Dropped and counted: few-shot
    rows (the Orca paper uses zero-shot ones), other sub-mixes, and rows of the Super-NI test set,
    which is for evaluation only.

    `per_submix` takes that many rows of each sub-mix in place of `limit` rows in all. The FLAN 2021
    sub-mix is published on the Hub alone: `flan2021_from_p3` lets the P3 rows over data sets that
    FLAN 2021 holds too stand in for it; such a row says so in `meta["stand_in"]` and is not in the
    t0 sub-mix any more.
    """

    per_submix: int | None = None
    flan2021_from_p3: bool = False
    kind: Literal["flan"] = "flan"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_submix is not None and (self.per_submix < 1 or self.limit is not None):
            raise ValueError(
                "per_submix must be at least 1 and takes the place of limit; remove one of the two"
            )

    def load(self, folder: Path = Path()) -> Filtered[Chat]:
        """The tasks that are taken, and those that were dropped on the way."""
        if self.per_submix is None:
            return super().load(folder)
        return self._window().take(
            self._read_all(folder), lambda item: str(item.meta["submix"]), limit=self.per_submix
        )

    def count(self, folder: Path = Path()) -> int:
        """The number of rows that `load` gives; for large files and the Hub a bound from above."""
        most = super().count(folder)
        return (
            most
            if self.per_submix is None
            else min(most or 4 * self.per_submix, 4 * self.per_submix)
        )

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        """One task in the one schema."""
        if row.get("evaluation_only"):
            return Dropped(at.id, "evaluation only", f"{at.text}: a row of the Super-NI test set")
        if not row["submix"]:
            return Dropped(at.id, "other sub-mix", at.text)
        if row["template_type"].startswith("fs"):
            return Dropped(at.id, "few-shot", at.text)
        meta: dict[str, Any] = {
            k: v for k, v in row.items() if k not in ("inputs", "targets") and v
        }
        if self.flan2021_from_p3 and row["submix"] == "t0" and flan2021_in_p3(row["task_name"]):
            meta.update(
                submix="flan2021", stand_in="a P3 template of a data set that FLAN 2021 holds too"
            )
        return chat(row["inputs"], row["targets"], at, meta)

    def _rows(self, place: DataFile) -> Iterator[Placed]:
        for at, row in super()._rows(place):
            yield from uniform(at, row)
