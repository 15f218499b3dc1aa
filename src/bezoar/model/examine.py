"""Whether a network of an architecture that bezoar was not tested with can be used at all.

Texts share a packed row, so every layer has to keep them apart by attention alone, and logits are
computed outside the network: recurrent layers, biased scores and scaled logits would go wrong in
silence.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import BezoarError, DataError
from bezoar.model import attention
from bezoar.model.architectures import ARCHITECTURES
from bezoar.model.attention import Segment
from bezoar.model.chunked_logprobs import OutputLayer
from bezoar.model.packed import PackedLayout
from bezoar.model.resolve import reason

# nats a token, ours: rounding in bfloat16 makes thousandths of it, another computation far more
_MOST_KL = {torch.float32: 1e-5, torch.bfloat16: 0.02}
_TEXTS = [1, 2, 3, 4, 5], [2, 3, 1], [1, 2, 3, 6, 7]
# the third one continues the first three tokens of the first
_ROW = [*_TEXTS[0], *_TEXTS[1], *_TEXTS[2][3:]]
_POSITIONS = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
_LAYOUT = PackedLayout((Segment(0, 5, 0, 0), Segment(5, 8, 0, 0), Segment(8, 10, 0, 3)))


@torch.no_grad()
def refuse_unlike(net: Any, output: OutputLayer, file: Path) -> None:
    """DataError unless a packed row gives what transformers gives for each text alone."""
    device = output.weight.device
    try:
        if getattr(net, "_is_stateful", False):
            raise DataError("it carries a state from token to token")
        row, places = (torch.tensor([x], device=device) for x in (_ROW, _POSITIONS))
        options = {"position_ids": places, "layout": _LAYOUT, "use_cache": False}
        ours = output.logits(net.base_model(input_ids=row, **options).last_hidden_state[0])
        net.set_attn_implementation("eager")
        alone = [net(input_ids=torch.tensor([x], device=device)).logits[0] for x in _TEXTS]
        kl = _mean_kl(torch.cat((alone[0], alone[1], alone[2][3:])), ours)
        fault = "" if kl <= _MOST_KL.get(output.weight.dtype, 0.02) else f"mean KL {kl:.1e} nats"
    except BezoarError as error:
        fault = str(error).rstrip(".")
    # a network that takes no layout fails in its own way
    except Exception as error:
        fault = reason(error)
    finally:
        net.set_attn_implementation(attention.NAME)
    if fault:
        raise unlike(net.config.model_type, fault, file)


def unlike(kind: str, fault: str, file: Path) -> DataError:
    """What is said of an architecture that bezoar cannot compute."""
    why = f"bezoar cannot compute what transformers does for the architecture {kind} ({fault})"
    return DataError(f"{file}: {why}; name a model of another, such as {', '.join(ARCHITECTURES)}.")


def _mean_kl(theirs: Tensor, ours: Tensor) -> float:
    p, q = theirs.float().log_softmax(-1), ours.float().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
