"""Pairs whose better answer is known, for judges and reward models: LLMBar, RewardBench, and the
pairs of a stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bezoar.chat.types import Comparison, Message
from bezoar.cost import Estimate
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, column, read_file, text
from bezoar.errors import DataError
from bezoar.evals.outcome import EvalContext
from bezoar.evals.stats import detectable
from bezoar.io import Row
from bezoar.references import FileRef, RowsRef


@dataclass(frozen=True)
class LabelledPairs:
    """Recipe keys of gold pairs: files of LLMBar or RewardBench, or the pairs of a stage; the first
    `limit` of them."""

    pairs: tuple[FileRef, ...] = ()
    rows: RowsRef = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.rows):
            raise ValueError(
                "gold pairs come from pairs (a list of files) or from rows (a stage); give one of"
                " the two"
            )

    def read(self, given: EvalContext | None = None) -> list[Comparison]:
        """The pairs; those of a stage need `given`. DataError for rows that are none."""
        found = [
            pair
            for ref in self.pairs
            for pair in read_labelled_pairs(locate_file(ref, Path(), "gold pairs"))
        ]
        for row in given.rows(self.rows) if self.rows and given else ():
            if not isinstance(row, Comparison):
                raise DataError(
                    f"{self.rows}: these rows are not comparisons; name a stage that gives pairs."
                )
            found.append(row)
        return found[: self.limit]

    def count(self, rows: Mapping[str, Estimate]) -> int:
        """How many pairs are expected."""
        known = int(rows[self.rows].expected) if self.rows in rows else len(self.read())
        return min(known, self.limit) if self.limit else known

    def least(self, name: str, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """The smallest difference in accuracy that the pairs can show, under `name`."""
        num = self.count(rows)
        return {name: detectable(num)} if num else {}


def read_labelled_pairs(path: Path) -> list[Comparison]:
    """The pairs of a file, with `subset` and where they are known `models` (chosen, rejected) in
    their meta.

    LLMBar (arXiv 2310.07641): input, output_1, output_2, label (1 or 2, the better one); its
    subsets are told by the folders. RewardBench (arXiv 2403.13787): prompt, chosen, rejected,
    subset.
    """
    folders = [part.lower() for part in path.resolve().parts[-3:-1]]
    llmbar = "llmbar-adver-" if "adversarial" in folders else "llmbar-"
    # RewardBench writes GPTInst and GPTOut with capitals
    name = llmbar + (path.resolve().parent.name if folders[-1].startswith("gpt") else folders[-1])
    pairs = []
    for at, row in read_file(path, "/".join(path.parts[-2:])):
        if "label" in row:
            pairs.append(_llmbar(row, at, name))
        else:
            subset = str(row.get("subset") or path.stem)
            models = [str(row.get(f"{side}_model", "")) for side in ("chosen", "rejected")]
            asked = (Message("user", text(row, "prompt", at)),)
            pairs.append(
                Comparison(
                    at.id,
                    asked,
                    text(row, "chosen", at),
                    text(row, "rejected", at),
                    {"subset": subset, "models": models},
                )
            )
    return pairs


def _llmbar(row: Row, at: RowOrigin, subset: str) -> Comparison:
    one, two, label = text(row, "output_1", at), text(row, "output_2", at), column(row, "label", at)
    if isinstance(label, bool) or label not in (1, 2):
        raise at.wrong(f"label is {label!r}, not 1 or 2; mend the row.")
    chosen, rejected = (one, two) if label == 1 else (two, one)
    return Comparison(
        at.id, (Message("user", text(row, "input", at)),), chosen, rejected, {"subset": subset}
    )
