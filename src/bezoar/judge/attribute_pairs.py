"""Pairs from answers with attribute labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Filtered, Messages, as_chats
from bezoar.cost import Estimate, Quote
from bezoar.errors import DataError
from bezoar.judge.stages import RuleFilter
from bezoar.model.spec import RewardWeights


@dataclass(frozen=True)
class AttributePairs(RuleFilter):
    """Recipe keys. Of all chats with one prompt the best and the worst answer become a comparison,
    by helpfulness as in HelpSteer2 (arXiv 2406.08673, section 4), or by other `weights` of the
    attributes in `meta["attributes"]`. Equal scores are dropped; `meta["strength"]` is the
    difference."""

    weights: dict[str, float] = field(default_factory=lambda: {"helpfulness": 1.0})
    kind: Literal["attribute_pairs"] = "attribute_pairs"

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("weights must name at least one attribute")

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Comparison]:
        """A pair a prompt, in the order of the prompts; dropped ones have "no second answer" or are
        a "tie".

        DataError for a row without a weighted attribute.
        """
        groups: dict[Messages, list[tuple[float, Chat]]] = {}
        for row in as_chats(rows):
            groups.setdefault(row.prompt, []).append((self._score(row), row))
        sifted = Filtered[Comparison]([])
        for prompt, scored in groups.items():
            (high, best), (low, worst) = (
                max(scored, key=lambda one: one[0]),
                min(scored, key=lambda one: one[0]),
            )
            if len(scored) == 1 or high == low:
                sifted.dropped.append(
                    Dropped(best.id, "no second answer" if len(scored) == 1 else "tie", f"{high:g}")
                )
                continue
            meta = {"strength": round(high - low, 6), "chosen": best.id, "rejected": worst.id}
            sifted.rows.append(Comparison(best.id, prompt, best.answer, worst.answer, meta))
        return sifted

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give, two answers a prompt and a quarter of ties taken for granted; no
        calls."""
        return Quote(rows[self.rows] * Estimate(0, 0.375, 0.5))

    def _score(self, row: Chat) -> float:
        given = row.meta.get("attributes") or {}
        if not isinstance(given, dict) or not all(
            isinstance(given.get(name), (int, float)) for name in self.weights
        ):
            raise DataError(
                f"row {row.id}: it lacks one of the attributes {', '.join(self.weights)}; label the"
                " rows first (kind: label or attributes)."
            )
        return RewardWeights(self.weights).score(list(given), list(given.values()))
