"""One attention function, registered with transformers as "bezoar"; a layout says who sees whom.

`net(input_ids, position_ids, layout=layout, use_cache=False)` hands `layout` to every attention
layer: a packed row of segments in training and scoring, slots of a cache in generation. No mask
tensor is built.
"""

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from bezoar.errors import TrainingError

NAME = "bezoar"


class Layout(Protocol):
    """Who sees whom. B batch, H query heads, G key/value heads, T tokens, D head size."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, G, T, D] -> attended values [B, H, T, D]."""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise TrainingError(
            f"the attention of {type(module).__name__} caps, biases or sinks its scores, which"
            " bezoar does not compute; take another model."
        )
    layer: Any = module.layer_idx
    return layout.attend(layer, query, key, value, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
