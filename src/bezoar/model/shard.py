"""A model's weights in parts over ranks (FSDP2): each holds one part of every matrix.

A block's weights are put together before it is read, forward and backward, and the gradient of
those that train is summed over ranks and divided among them. Every rank has to make the same number
of passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from bezoar.model.layer import FastLayer
from bezoar.model.linear import StackedLinear
from bezoar.model.tensors import open_tensors, save_tensors


def shard(
    net: Any, device: torch.device, dtype: torch.dtype, adapters: Set[nn.Parameter] = frozenset()
) -> None:
    """Leave this rank its part of every weight of `net`, whose states `net.states` gives now: on
    `device`, rounded to `dtype`, and in float32 if it trains. `adapters` stay whole on every rank,
    and their gradients apart.

    No weight is ever whole here: of one that lies in a mapped file only the part's rows are read.
    """
    # of a block's output that is a view, which nothing here writes into
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    weights = _emptied(net, dtype, adapters)
    whole = {*adapters}
    # a fast block holds the plain one, and is what is called
    blocks = [m for m in net.modules() if isinstance(m, (FastLayer, GradientCheckpointingLayer))]
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    for block in blocks:
        if id(block) not in inner:
            fully_shard(block, ignored_params=whole)
    # embeddings, tied or not, and the last norm: together until the backward pass has ended
    fully_shard(net, ignored_params=whole)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            # the loss was divided by the units of all ranks before: a sum, where FSDP takes a mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    # the head is read apart from the body, so that only some logits are made: not by `forward`,
    # which alone FSDP would notice
    net.states = MethodType(_states, net)
    register_fsdp_forward_method(net, "states")
    for buffer in () if adapters else net.buffers():
        buffer.data = buffer.float() if buffer.is_floating_point() else buffer
    _fill(net, weights, device, dtype)
    for module in net.modules():
        if isinstance(module, StackedLinear):
            # made of frozen adapters where the weight lay, and in the precision of its file
            module.join_lower(torch.empty((), device=device, dtype=dtype))


def _emptied(net: Any, dtype: torch.dtype, adapters: Set[nn.Parameter]) -> dict[str, Tensor]:
    """The weights of a net by all their names, which leave it: it keeps their shapes, tied ones as
    one."""
    named = net.named_parameters(remove_duplicate=False)
    weights = {name: weight for name, weight in named if weight not in adapters}
    shapes = dict[int, nn.Parameter]()
    for weight in weights.values():
        stored = torch.float32 if weight.requires_grad else dtype
        shape = torch.empty_like(weight, dtype=stored, device="meta")
        shapes[id(weight)] = nn.Parameter(shape, requires_grad=weight.requires_grad)
    net.load_state_dict(
        {name: shapes[id(weight)] for name, weight in weights.items()}, assign=True, strict=False
    )
    return weights


def _fill(net: Any, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Give the parts of a net their numbers."""
    own = dict[int, nn.Parameter]()
    named = net.named_parameters(remove_duplicate=False)
    shapes = {name: empty for name, empty in named if name in weights}
    for name, empty in shapes.items():
        # as torch.chunk, and the last ranks may have none; whoever is read is let go
        weight, mesh = weights.pop(name), empty.device_mesh
        if id(empty) in own:
            continue
        parts = weight.detach().chunk(mesh.size())
        rank = mesh.get_local_rank()
        part = parts[rank] if rank < len(parts) else weight.detach()[:0]
        here = torch.empty(part.shape, dtype=empty.dtype, device=device).copy_(part.to(dtype))
        whole_shape = {"shape": empty.shape, "stride": empty.stride()}
        placed = DTensor.from_local(here, mesh, empty.placements, run_check=False, **whole_shape)
        own[id(empty)] = nn.Parameter(placed, requires_grad=empty.requires_grad)
    filled = {name: own[id(empty)] for name, empty in shapes.items()}
    net.load_state_dict(filled, assign=True, strict=False)


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


def gathered(net: nn.Module, folder: Path, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """All weights by name in this precision, of a rank that is to `keep` them; tied ones are one
    tensor. They are put together one at a time, and lie mapped in a nameless file in `folder`."""
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def read(name: str) -> Tensor:
        tensor = whole(parameters[name])
        return tensor.to("cpu", dtype) if keep else tensor

    if not keep:
        for name in sorted(parameters):
            read(name)
        return {}
    shapes = {n: torch.empty(t.shape, dtype=dtype, device="meta") for n, t in parameters.items()}
    file = folder / "whole.safetensors"
    save_tensors(file, shapes, read=read)
    tensors = {name: part[...] for name, part in open_tensors(file).items()}
    file.unlink()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {
        name: tensors[names[id(parameter)]]
        for name, parameter in net.named_parameters(remove_duplicate=False)
    }
    return {**net.state_dict(), **found}


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
