"""A stack merged into one ordinary model folder, and how far the merge is from the stack.

B rows of tokens, A positions compared, E hidden size, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import TrainingError
from bezoar.io import atomic_dir
from bezoar.model.load import DTYPES
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack


@dataclass(frozen=True)
class Agreement:
    """Over `positions` next-token predictions: the mean of KL(stack || merge) in nats, the largest,
    and the share with the same top token."""

    positions: int
    mean_kl: float
    max_kl: float
    same_top: float

    def __str__(self) -> str:
        return (
            f"mean KL {self.mean_kl:.2e} nats, largest {self.max_kl:.2e}, same top token"
            f" {self.same_top:.2%}, {self.positions} positions"
        )


def merge(
    stack: Stack,
    out_dir: Path,
    *,
    rows: Sequence[Sequence[int]] = (),
    max_mean_kl: float = math.inf,
) -> Agreement | None:
    """Write base (dequantised) plus all adapters, added in float32 and rounded once, as a model
    folder with its tokenizer and, of a reward model, its score head.

    Adapters trained on a 4-bit base belong to that base's dequantised weights, not to the original
    ones. With `rows` of tokens what was written is loaded again and compared with the stack on
    them. TrainingError, with the figures, when they differ by more than `max_mean_kl` nats a token
    on average; no folder is left then.
    """
    net = plain_net(stack)
    with atomic_dir(out_dir) as work:
        net.save_pretrained(work)
        stack.tokenizer.inner.save_pretrained(work)
        if stack.score_head is not None:
            stack.score_head.save(work)
        found = (
            compare(
                stack,
                Stack(ModelSpec(str(work), dtype=stack.spec.dtype), device=str(stack.device)),
                rows,
            )
            if rows
            else None
        )
        if found is not None and not found.mean_kl <= max_mean_kl:
            told = f"the merge differs from the stack: {found}, and {max_mean_kl} is allowed"
            raise TrainingError(f"{out_dir}: not written, for {told}; serve the adapters instead.")
    return found


def plain_net(stack: Stack) -> Any:
    """A transformers model with the stack's merged weights, in the precision of the stack's
    spec."""
    from transformers import AutoModelForCausalLM

    dtype = DTYPES[stack.spec.dtype]
    merged = {f"{name}.weight": layer.merged() for name, layer in stack.layers()}
    biases = {
        f"{name}.bias": layer.bias for name, layer in stack.layers() if layer.bias is not None
    }
    rest = {
        name: tensor
        for name, tensor in stack.net.state_dict().items()
        if not any(name.startswith(f"{n}.") for n, _ in stack.layers())
    }
    net: Any = AutoModelForCausalLM.from_config(stack.net.config, dtype=dtype)  # type: ignore[no-untyped-call]
    net.load_state_dict({**rest, **biases, **merged})
    if stack.net.generation_config is not None:
        net.generation_config = stack.net.generation_config
    return net


@torch.no_grad()
def compare(one: Stack, two: Stack, rows: Sequence[Sequence[int]]) -> Agreement:
    """How near the next-token distributions of two models are on rows of at least two tokens."""
    kls, same = [], []
    for row in rows:
        batch = pack([answer(row[:1], row[1:])]).to(one.device)
        hidden = (one.hidden(batch), two.hidden(batch))
        for part in torch.split(torch.arange(len(row) - 1, device=one.device), 256):
            p, q = (
                _log_softmax(h[part], s.head_weight)
                for h, s in zip(hidden, (one, two), strict=True)
            )
            kls.append((p.exp() * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
    kl, top = torch.cat(kls).double(), torch.cat(same).double()
    return Agreement(len(kl), float(kl.mean()), float(kl.max()), float(top.mean()))


def _log_softmax(hidden: Tensor, weight: Tensor) -> Tensor:
    return (hidden @ weight.to(hidden.dtype).T).float().log_softmax(-1)
