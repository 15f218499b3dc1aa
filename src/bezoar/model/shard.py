"""A model's weights in parts over ranks (FSDP2): each holds one part of every matrix.

A block's weights are put together before it is read, forward and backward, and its gradient is
summed over ranks and divided among them. Every rank has to make the same number of passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from bezoar.model.layer import FastLayer


def shard(net: Any) -> None:
    """Leave this rank its part of every weight of `net`, whose states `net.states` gives now."""
    # a fast block holds the plain one, and is what is called
    blocks = [m for m in net.modules() if isinstance(m, (FastLayer, GradientCheckpointingLayer))]
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    for block in blocks:
        if id(block) not in inner:
            fully_shard(block)
    # embeddings, tied or not, and the last norm: together until the backward pass has ended
    fully_shard(net)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            # the loss was divided by the units of all ranks before: a sum, where FSDP takes a mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    # the head is read apart from the body, so that only some logits are made: not by `forward`,
    # which alone FSDP would notice
    net.states = MethodType(_states, net)
    register_fsdp_forward_method(net, "states")


def _states(net: Any, **inputs: Any) -> Any:
    return net.base_model(**inputs)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; where it is in parts, every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, where `like` is in parts."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or not tensor.ndim:
        return tensor
    mesh, placements = like.device_mesh, like.placements
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def whole_state(net: nn.Module, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """All weights by name, on the CPU in this precision, of a rank that is to `keep` them; tied
    ones are one tensor."""
    found, copies = dict[str, Tensor](), dict[int, Tensor]()
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if id(parameter) not in copies:
            tensor = whole(parameter.detach())
            copies[id(parameter)] = tensor.to("cpu", dtype) if keep else tensor[:0]
        found[name] = copies[id(parameter)]
    others = {name: tensor for name, tensor in net.state_dict().items() if name not in found}
    return {**found, **others} if keep else {}


def clip_in_parts(parameters: Iterable[nn.Parameter], most: float) -> float:
    """`clip_grad_norm_` of gradients of which some are in parts; the norm before."""
    # torch's own takes tensors that are all in parts, or none
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = [whole(torch.linalg.vector_norm(grad)) for grad in grads]
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    scale = min(1.0, most / (norm + 1e-6))
    for grad in grads if scale < 1 else ():
        grad.mul_(scale)
    return norm


def in_parts(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any of them is."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())
