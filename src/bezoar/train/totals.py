"""Units of rows, and means over those of a step or an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bezoar.model.prompt_group import PromptGroup, num_read
from bezoar.train.objective import LossOutput, Unit
from bezoar.train.ranks import Ranks


@dataclass
class Totals:
    """Means over the units of a step or an evaluation, and the tokens that were read for them."""

    units: int = 0
    tokens: int = 0
    trained: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, output: LossOutput, groups: Sequence[PromptGroup]) -> None:
        """Add a micro-batch's share of the means."""
        self.loss += float(output.loss.detach().double().sum()) / self.units
        for name, values in output.metrics.items():
            mean = float(values.double().sum()) / self.units
            self.metrics[name] = self.metrics.get(name, 0.0) + mean
        self.tokens += num_read(groups)
        self.trained += sum(count_units(group, "token") for group in groups)

    def names(self) -> Totals:
        """The same metrics of nothing."""
        return Totals(self.units, metrics=dict.fromkeys(self.metrics, 0.0))

    def over(self, ranks: Ranks) -> Totals:
        """The same of what all ranks read."""
        if ranks.size == 1:
            return self
        # names of no metric
        counts = {"": self.loss, " read": self.tokens, " trained": self.trained}
        metrics = ranks.sum_named({**counts, **self.metrics})
        loss, tokens, trained = (metrics.pop(name) for name in counts)
        return Totals(self.units, int(tokens), int(trained), loss, metrics)


def count_units(group: PromptGroup, unit: Unit) -> int:
    """Units in one row."""
    if unit == "token":
        return sum(completion.num_trained for completion in group.completions)
    if unit == "label":
        return sum(not math.isnan(label) for label in group.labels)
    return {"answer": len(group.completions), "pair": len(group.completions) // 2, "group": 1}[unit]
