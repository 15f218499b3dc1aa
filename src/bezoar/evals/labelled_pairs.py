"""Pairs whose better answer is known: of LLMBar, of RewardBench, or of a stage."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bezoar.bounds import Count
from bezoar.chat.row_types import COMPARISONS, RowNeed
from bezoar.chat.types import Comparison, Message
from bezoar.cost import Estimate
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, column, read_file, text
from bezoar.data.turns import prompt_in
from bezoar.errors import DataError
from bezoar.evals.outcome import EvalContext
from bezoar.evals.power import detectable
from bezoar.evals.section import Section
from bezoar.io import Row
from bezoar.references import FileRef, RowsRef

TEST_SETS = (
    *("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "mtbench_gpt4", "mtbench_human"),
    *("pku_better", "pku_safer", "shp", "summarize"),
)
"""The splits of allenai/preference-test-sets."""


@dataclass(frozen=True)
class LabelledPairs(Section):
    """A section on pairs whose better answer is known."""

    pairs: tuple[FileRef, ...] = ()
    """Files of LLMBar, RewardBench or allenai/preference-test-sets."""
    rows: RowsRef = ""
    """Stage whose pairs are taken instead."""
    limit: Count | None = None
    """Number of pairs, the first ones; null for all."""

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.rows):
            raise ValueError(
                "gold pairs are in pairs (files) or rows (a stage); give one of the two"
            )

    def read(self, context: EvalContext | None = None) -> list[Comparison]:
        """The pairs; those of a stage need `context`. DataError for rows of another kind."""
        pairs: list[Comparison] = []
        for ref in self.pairs:
            pairs += read_labelled_pairs(locate_file(ref, Path(), "gold pairs"))
        # a plan has no context: it knows the number of rows from their stage
        for row in context.rows(self.rows) if self.rows and context else ():
            if not isinstance(row, Comparison):
                raise DataError(f"{self.rows}: these are not comparisons; name a stage of pairs.")
            pairs.append(row)
        return pairs[: self.limit]

    def takes(self) -> Mapping[str, RowNeed]:
        """Pairs."""
        return {"rows": (COMPARISONS,)}

    def least(self, name: str, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """The smallest difference in accuracy that the pairs can show, under `name`."""
        num = int(rows[self.rows].expected) if self.rows in rows else len(self.read())
        num = min(num, self.limit) if self.limit else num
        return {name: detectable(num)} if num else {}


def read_labelled_pairs(path: Path) -> list[Comparison]:
    """The pairs of a file, their `subset` and, if known, `models` (chosen, rejected) in `meta`.

    LLMBar (arXiv 2310.07641): input, output_1, output_2, label (1 or 2, the better one); its
    folders, or the split on the Hub, name the subset. RewardBench (arXiv 2403.13787): prompt,
    chosen, rejected, subset; of a file of one of its older test sets, whose prompts may be
    messages, that set is the subset.
    """
    # hub files are cached as owner--name--split.jsonl and published as split-00000-of-00001.parquet
    split = re.sub(r"-\d{5}-of-\d{5}$", "", path.name.partition(".")[0]).rpartition("--")[2]
    is_llmbar_split = split.startswith(("Natural", "Adversarial_"))
    *above, name = split.split("_") if is_llmbar_split else path.resolve().parts[-3:-1]
    is_adversarial = "adversarial" in (part.lower() for part in above)
    # RewardBench writes GPTInst and GPTOut with capitals
    name = name if name.startswith("GPT") else name.lower()
    llmbar_subset = ("llmbar-adver-" if is_adversarial else "llmbar-") + name
    pairs = []
    for at, row in read_file(path, "/".join(path.parts[-2:])):
        if "label" in row:
            pairs.append(_llmbar_pair(row, at, llmbar_subset))
            continue
        models = [str(row.get(f"{side}_model", "")) for side in ("chosen", "rejected")]
        # their column `subset` names a part of the set
        subset = split if split in TEST_SETS else str(row.get("subset") or path.stem)
        answers = text(row, "chosen", at), text(row, "rejected", at)
        meta = {"subset": subset, "models": models}
        pairs.append(Comparison(at.id, prompt_in(row, "prompt", at), *answers, meta))
    return pairs


def _llmbar_pair(row: Row, at: RowOrigin, subset: str) -> Comparison:
    answers = [text(row, "output_1", at), text(row, "output_2", at)]
    label = column(row, "label", at)
    if isinstance(label, bool) or label not in (1, 2):
        raise at.wrong(f"label is {label!r}, not 1 or 2; mend the row.")
    chosen, rejected = answers if label == 1 else reversed(answers)
    prompt = (Message("user", text(row, "input", at)),)
    return Comparison(at.id, prompt, chosen, rejected, {"subset": subset})
