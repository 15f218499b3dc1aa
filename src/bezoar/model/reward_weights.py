"""From the outputs of a reward model to one score. Imports no torch."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bezoar.errors import RecipeError

# HelpSteer2 (arXiv 2406.08673): weights found by a search on RewardBench's prompts (appendix H),
# and those of section 4.3 for
# iterative DPO and PPO
NEMOTRON_4_340B = {
    "helpfulness": 0.30,
    "correctness": 0.74,
    "coherence": 0.46,
    "complexity": 0.47,
    "verbosity": -0.33,
}
LLAMA_3_70B = {
    "helpfulness": 0.65,
    "correctness": 0.80,
    "coherence": 0.45,
    "complexity": 0.55,
    "verbosity": -0.40,
}
GOODNESS = {"helpfulness": 0.65, "correctness": 0.80, "coherence": 0.45}


@dataclass(frozen=True)
class RewardWeights:
    """Recipe keys. score = (sum_k weight_k output_k - mean) / std.

    Without `weights` a model with one output counts as it is, and one of HelpSteer2's attributes by
    0.65 helpfulness + 0.80 correctness + 0.45 coherence (arXiv 2406.08673, section 4.3). `mean` and
    `std` are those of the reference answers: HelpSteer2 divides by both, DR-PO (arXiv 2404.08495)
    only moves the mean of its references to 0.
    """

    weights: dict[str, float] = field(default_factory=dict)
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError("std must be above 0; change the value")

    def score(self, outputs: Sequence[str], values: Sequence[float]) -> float:
        """The score of one answer from its K outputs. RecipeError when a weighted output is not
        among them."""
        weights = self._weights(outputs)
        found = dict(zip(outputs, values, strict=True))
        return (
            sum(weight * found[name] for name, weight in weights.items()) - self.mean
        ) / self.std

    def centred(
        self, outputs: Sequence[str], references: Sequence[Sequence[float]], *, scale: bool = True
    ) -> "RewardWeights":
        """With the mean (and with `scale` the standard deviation) of reference answers [N, K]: they
        score 0 on average."""
        plain = replace(self, mean=0.0, std=1.0)
        scores = [plain.score(outputs, values) for values in references]
        spread = statistics.pstdev(scores) if scale else 1.0
        return replace(self, mean=statistics.fmean(scores), std=spread or 1.0)

    def _weights(self, outputs: Sequence[str]) -> Mapping[str, float]:
        weights = self.weights or ({outputs[0]: 1.0} if len(outputs) == 1 else GOODNESS)
        missing = [name for name in weights if name not in outputs]
        if missing:
            raise RecipeError(
                f"weights: the reward model has no output {missing[0]}; it has"
                f" {', '.join(outputs)}."
            )
        return weights
