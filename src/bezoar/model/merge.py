"""Adapters merged into the weights: for the time of decoding, or for good as a model folder.

n or T tokens, I inputs, O outputs, E hidden size, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from bezoar.errors import TrainingError
from bezoar.io import atomic_dir
from bezoar.model.limited_attention import capped
from bezoar.model.linear import LaidOut, StackedLinear, linear_layers
from bezoar.model.load import DTYPES
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack

Multiply = Callable[[Tensor], Tensor]


@contextmanager
def merged_weights(stack: Stack) -> Iterator[Multiply]:
    """Decode with merged weights; yields the output layer, [n, E] -> logits [n, V] in float32.

    Inside, every linear layer of the decoder multiplies by one plain matrix, so that a token costs
    what it costs the base model. The sums differ from those of the separate adapters by rounding:
    scoring and training never use them.
    """
    layers = [layer for _, layer in linear_layers(stack.net)]
    try:
        for layer in layers:
            weight = layer.merged() if isinstance(layer, StackedLinear) else layer.weight.detach()
            layer.__dict__["forward"] = _product(weight, layer.bias)
        output = stack.output
        bias = None if output.bias is None else output.bias.detach()
        lm_head = _product(output.weight.detach(), bias)
        yield lambda hidden: capped(lm_head(hidden).float(), output.softcap)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _product(weight: Tensor, bias: Tensor | None) -> Multiply:
    """x [..., I] -> [..., O]."""
    kernels: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and kernels:
        return LaidOut(weight, bias)
    return lambda x: linear(x, weight, bias)


@dataclass(frozen=True)
class Agreement:
    """KL(stack || merge) in nats and the share of equal top tokens over `positions` predictions."""

    positions: int
    mean_kl: float
    max_kl: float
    same_top: float

    def __str__(self) -> str:
        kl = f"mean KL {self.mean_kl:.2e} nats, largest {self.max_kl:.2e}"
        return f"{kl}, same top token {self.same_top:.2%}, {self.positions} positions"


def merge(
    stack: Stack,
    out_dir: Path,
    *,
    rows: Sequence[Sequence[int]] = (),
    max_mean_kl: float = math.inf,
    add: Callable[[Path], None] = lambda work: None,
) -> Agreement | None:
    """Write the base with all adapters, its tokenizer and its score head as a model folder; `add`
    writes what else belongs into it.

    Adapters trained on a 4-bit base belong to its dequantised weights, not to the original ones.
    With `rows` of tokens the folder is loaded again and compared with the stack. TrainingError if
    they differ by more than `max_mean_kl` nats a token on average; no folder is left then.
    """
    net = merged_net(stack)
    agreement = None
    with atomic_dir(out_dir) as work:
        net.save_pretrained(work)
        stack.tokenizer.inner.save_pretrained(work)
        if stack.score_head is not None:
            stack.score_head.save(work)
        add(work)
        # the folder is read back as users will read it, while it can still be taken away
        if rows:
            other = Stack(ModelSpec(str(work), dtype=stack.spec.dtype), device=str(stack.device))
            agreement = compare(stack, other, rows)
            # `not <=` also refuses nan
            if not agreement.mean_kl <= max_mean_kl:
                fault = f"not written, for the merge differs from the stack: {agreement}"
                hint = f"{max_mean_kl} is allowed; export with --adapter instead"
                raise TrainingError(f"{out_dir}: {fault}, and {hint}.")
    return agreement


def merged_net(stack: Stack) -> Any:
    """A transformers model with the merged weights, in the precision of the stack's spec."""
    layers = dict(stack.layers())
    if stack.added is not None:
        stack.added.write()
    # the layers' own parts (packed weights, adapters) have no place in a plain model
    parts, weights = tuple(f"{name}." for name in layers), stack.net.state_dict().items()
    state = {name: tensor for name, tensor in weights if not name.startswith(parts)}
    for name, layer in layers.items():
        state[f"{name}.weight"] = layer.merged()
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias
    dtype = DTYPES[stack.spec.dtype]
    net: Any = AutoModelForCausalLM.from_config(stack.net.config, dtype=dtype)  # type: ignore[no-untyped-call]
    net.load_state_dict(state)
    if stack.net.generation_config is not None:
        net.generation_config = stack.net.generation_config
    return net


@torch.no_grad()
def compare(stack: Stack, other: Stack, rows: Sequence[Sequence[int]]) -> Agreement:
    """How near the next-token distributions of two models are on rows of at least two tokens."""
    kls, same = [], []
    for row in rows:
        batch = pack([answer(row[:1], row[1:])]).to(stack.device)
        hidden, other_hidden = stack.hidden(batch), other.hidden(batch)  # [A, E]
        # in parts, because two sets of logits [A, V] at once may not fit
        for part in torch.split(torch.arange(len(row) - 1, device=stack.device), 256):
            p = stack.output.logits(hidden[part]).float().log_softmax(-1)
            q = other.output.logits(other_hidden[part]).float().log_softmax(-1)
            kls.append((p.exp() * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
    kl, top = torch.cat(kls).double(), torch.cat(same).double()
    return Agreement(len(kl), float(kl.mean()), float(kl.max()), float(top.mean()))
