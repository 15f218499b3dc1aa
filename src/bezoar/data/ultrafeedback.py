"""UltraFeedback binarized: pairs with scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import Comparison, Dropped
from bezoar.data.rows import RowOrigin, number
from bezoar.data.source import Source
from bezoar.data.turns import pair_in
from bezoar.data.unused_columns import METADATA
from bezoar.io import Row


@dataclass(frozen=True)
class UltraFeedback(Source[Comparison]):
    """Pairs with scores: columns prompt, chosen, rejected, score_chosen and score_rejected.

    The first three are texts or messages; the scores may be under metadata.

    Source: arXiv 2310.01377
    Example: {kind: ultrafeedback, path: HuggingFaceH4/ultrafeedback_binarized, split: train_prefs}
    """

    min_margin: float = 0.0
    """Drop pairs whose scores differ by less than this; 0 keeps ties."""
    kind: Literal["ultrafeedback"] = "ultrafeedback"
    shape = "comparisons"
    passed: ClassVar[frozenset[str]] = METADATA | {"messages", "metadata"}

    def read(self, row: Row, at: RowOrigin) -> Comparison | Dropped:
        # copies of the data set differ in where the scores are
        scores = row["metadata"] if isinstance(row.get("metadata"), dict) else row
        meta = {name: number(scores, name, at) for name in ("score_chosen", "score_rejected")}
        margin = meta["score_chosen"] - meta["score_rejected"]
        if margin < self.min_margin:
            return Dropped(at.id, "small margin", f"{at.text}: {margin:g}")
        return pair_in(row, at, ("prompt", "chosen", "rejected"), {**meta})
