"""What a training stage will hold in memory, from the model's config.json and the recipe.

Imports no torch without a GPU. T tokens of a micro-batch, E hidden size, F inner size of the MLP.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bezoar.launch import OneProcess
from bezoar.model.find import local_config
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.train.layer_shapes import Config, Shapes, head_sizes, inner_size, layer_shapes, parts_of
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.settings import Optimizer, TrainSettings

PROCESS_BYTES = 490 * 10**6
"""Python with its libraries, and what reading a model leaves behind."""
HEAD_BYTES = 300 * 10**6
"""Chunks of logits, and the output embedding laid out for the matrix kernel."""
PAGE = 2**21
"""On a CPU, tensors of at least this size take whole pages of it (see model.load)."""
_KEYS = ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]
_BYTES = {"bfloat16": 2, "float32": 4}
_MOMENTS = {"adamw": 8, "rmsprop": 4, "adamw_8bit_paged": 2 + 8 / 256}
"""Bytes of an optimizer's state a weight; in 8 bits each block of 256 has two scales."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the parts of a training process."""

    process: int
    weights: int
    trained: int  # gradients and the optimizer's state, and the weights of an adapter
    head: int
    activations: int
    best: int = 0  # the weights of the best evaluation, which never lie on a GPU
    packing: int = 0  # the file's pages of weights that are packed, gone before training begins
    drawing: int = 0  # while PPO draws answers: merged weights, keys and values

    @property
    def ahead(self) -> int:
        """What is yet to be taken before the first step, when the model is loaded."""
        return self.trained + self.best + max(self.head + self.activations, self.drawing)

    @property
    def total(self) -> int:
        """The expected peak."""
        return self.process + self.weights + max(self.ahead, self.packing)


def llama_like(config: Config) -> bool:
    """Whether a config.json says what a prediction needs, with one number for all layers."""
    return all(isinstance(config.get(key), int) for key in _KEYS) and inner_size(config) > 0


def predict_memory(
    config: Config,
    spec: ModelSpec,
    lora: LoRA | None,
    *,
    tokens: int,
    on_gpu: bool = False,
    optimizer: Optimizer = "adamw",
    keeps_best: bool = False,
    recompute: bool = False,
    slots: int = 0,
    positions: int = 0,
    critic: tuple[Config, ModelSpec] | None = None,
    parts: int = 1,
) -> Memory | None:
    """The peak of training with micro-batches of up to `tokens`; None if not `llama_like`.

    PPO also draws answers, `slots` at once, each with its prompt of up to `positions` tokens, and
    may have a `critic` that trains beside it. Of weights in `parts` over ranks, one is here.
    """
    if not llama_like(config):
        return None
    shapes, num_layers = layer_shapes(config), config["num_hidden_layers"]
    # 1) weights: all weights train in float32, frozen ones have the precision of the recipe
    width = _BYTES[spec.dtype] if lora is not None else 4
    num_embeddings = 1 if config.get("tie_word_embeddings", parts_of(config).tied) else 2
    embedding = config["vocab_size"] * config["hidden_size"]
    sizes = [num_in * num_out for num_in, num_out in shapes.values()]
    linear = num_layers * sum(sizes)
    packed = linear * 33 // 64 if spec.quantize == "nf4" else 0  # 4 bits, and 8 bits a block of 64
    # a CPU keeps what it unpacked, and meanwhile the mapped file; a GPU unpacks one layer at a time
    packing = linear * width if packed and not on_gpu else 0
    dense = max(sizes) if on_gpu and spec.quantize == "nf4" else linear
    weights = (num_embeddings * embedding + dense) * width + packed
    # 2) what trains: gradient and moments, an adapter's own weights and the best ones, in float32
    num_trained = (linear + num_embeddings * embedding) // parts
    if lora is not None:  # whole on every rank
        targets = _targets(shapes, lora).values()
        num_trained = num_layers * sum(lora.r * (i + o) for i, o in targets)
    trained = round(num_trained * (4 + _MOMENTS[optimizer] + (4 if lora else 0)))
    best = 4 * num_trained if keeps_best and not on_gpu else 0
    # 3) of an output embedding that trains: its gradient in float32, two copies in bfloat16
    head = HEAD_BYTES + (8 * embedding if lora is None else 0)
    activations, widest = _activations(config, spec, lora, tokens=tokens, on_gpu=on_gpu)
    if recompute:
        # every layer keeps its input and, when the head's work is done, one at a time all the rest
        widest = max(0, activations // num_layers + widest - head)
        activations = num_layers * config["hidden_size"] * tokens * width
    sizes_of = num_embeddings * embedding, linear, linear // num_layers
    casts = lora is None and spec.dtype == "bfloat16"
    widest += _copies(*sizes_of, casts=casts, width=width, parts=parts, recompute=recompute)
    held = weights // parts, trained, head, activations + widest, best, packing
    memory = Memory(0 if on_gpu else PROCESS_BYTES, *held)
    if slots:
        memory = replace(memory, drawing=_drawing(config, width, slots, positions, on_gpu=on_gpu))
    same: Any = {"tokens": tokens, "on_gpu": on_gpu, "optimizer": optimizer, "recompute": recompute}
    if critic is not None and (other := predict_memory(*critic, lora, **same)):
        added = "weights", "trained", "activations"
        memory = replace(memory, **{n: getattr(memory, n) + getattr(other, n) for n in added})
    return memory


def _copies(
    embeddings: int,
    linear: int,
    block: int,
    *,
    casts: bool,
    width: int,
    parts: int,
    recompute: bool,
) -> int:
    """Bytes of weights that are there once more while they are read, of numbers of weights."""
    # in bfloat16 all matrices that train, up to the backward pass
    copies = 2 * linear if casts else 0
    if parts == 1:
        return copies
    # of parts, the embeddings and two blocks are whole; a block read again has been let go before
    return (0 if recompute else copies) + width * (embeddings + 2 * block)


def _activations(
    config: Config, spec: ModelSpec, lora: LoRA | None, *, tokens: int, on_gpu: bool
) -> tuple[int, int]:
    """Bytes that all layers keep for the backward pass, and of the widest step of one."""
    width, shapes = _BYTES[spec.dtype], layer_shapes(config)
    kept, widest = (
        sum(size * tokens if on_gpu else _paged(size * tokens) for size in sizes_per_token)
        for sizes_per_token in (_kept(config, shapes, lora, width), _beside(config, width))
    )
    return config["num_hidden_layers"] * kept, widest


def _drawing(config: Config, width: int, slots: int, positions: int, *, on_gpu: bool) -> int:
    """Bytes that are held while answers are drawn: merged weights, and keys and values."""
    num_layers: int = config["num_hidden_layers"]
    linear: int = num_layers * sum(i * o for i, o in layer_shapes(config).values())
    # a CPU has a copy of the output embedding laid out for the matrix kernel too
    merged: int = linear + (0 if on_gpu else config["vocab_size"] * config["hidden_size"])
    # with the spare room of model.kv_cache, in whole blocks
    block = 256 if on_gpu else 128
    room = -(-(positions + positions // 4) // block) * block
    return (merged + num_layers * slots * room * 2 * head_sizes(config)[1]) * width


def options(stage: TrainSettings | PolicySettings) -> dict[str, Any]:
    """The keywords by which a stage's settings change what `predict_memory` says."""
    if isinstance(stage, TrainSettings):
        launch, adapter = stage.launch or OneProcess(), stage.adapter is not None
        parts = launch.ranks if launch.shards(adapter=adapter) else 1
        more = {"parts": parts} if parts > 1 else {}
        return {"optimizer": stage.optimizer, "keeps_best": stage.validation > 0, **more}
    slots, positions = min(stage.slots, stage.batch_size), stage.max_length + stage.max_tokens
    # answers by an engine take nothing of this process
    slots = slots if stage.rollouts == "here" else 0
    return {"optimizer": stage.optimizer, "slots": slots, "positions": positions}


def largest_budget(
    config: Config, spec: ModelSpec, lora: LoRA | None, *, free: int, **keywords: Any
) -> int | None:
    """The most tokens of a micro-batch that `free` bytes hold; 0 if not even the weights fit.

    None if the model is not `llama_like`. `keywords` are those of `predict_memory`.
    """

    def too_large(num_tokens: int) -> bool:
        memory = predict_memory(config, spec, lora, tokens=num_tokens, **keywords)
        return memory is not None and memory.total > free

    # more tokens never need less memory, so the largest number that fits is found by bisection
    if not llama_like(config):
        return None
    return bisect_left(range(2**24), True, key=lambda num_tokens: too_large(num_tokens + 1))


def memory_here(
    config: Config,
    spec: ModelSpec,
    stage: TrainSettings | PolicySettings,
    *,
    tokens: int,
    beside: Sequence[ModelSpec] = (),
) -> tuple[int, int | None] | None:
    """The peak of a stage on this machine, in bytes, and the largest `tokens_per_batch` that the
    memory which is free holds; None if the model is not `llama_like`. Models `beside` it, such as a
    reward model, are held too."""
    free, on_gpu = available()
    model, keywords = (config, spec, stage.adapter), {"on_gpu": on_gpu, **options(stage)}
    held = 0
    for other in beside:
        others = predict_memory(
            local_config(other.path) or {}, other, LoRA(), tokens=0, on_gpu=on_gpu
        )
        held += others.weights if others else 0
    if isinstance(stage, PPOSettings) and stage.critic == "reward" and beside:
        keywords["critic"] = local_config(beside[0].path) or {}, beside[0]
    # activations are recomputed where they would not fit, unless the recipe says otherwise
    always, never = stage.recompute == "always", stage.recompute == "never"
    memory = predict_memory(*model, tokens=tokens, recompute=always, **keywords)
    if memory and memory.total + held > free and not never:
        memory = predict_memory(*model, tokens=tokens, recompute=True, **keywords)
    if memory is None:
        return None
    most = largest_budget(*model, free=free - held, recompute=not never, **keywords)
    return memory.total + held, most


def available() -> tuple[int, bool]:
    """Free bytes where training would run, and whether that is a GPU."""
    if Path("/dev/nvidiactl").exists():
        import torch

        if torch.cuda.is_available():
            # with what torch's allocator holds and does not use
            unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return int(torch.cuda.mem_get_info()[0]) + unused, True
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024, False
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, False


def _targets(shapes: Shapes, lora: LoRA) -> Shapes:
    if lora.targets == "all-linear":
        return shapes
    return {name: shape for name, shape in shapes.items() if name in lora.targets}


def _paged(size: int) -> int:
    return size if size < PAGE else -(-size // PAGE) * PAGE


def _kept(config: Config, shapes: Shapes, lora: LoRA | None, width: int) -> list[int]:
    """Bytes a token of each tensor that a layer keeps for the backward pass."""
    E, F, heads = config["hidden_size"], inner_size(config), config["num_attention_heads"]
    queries, keys = head_sizes(config)
    attention = [queries * width] + [keys * width] * 2 + [heads * 4]  # with the log-sum-exps
    if lora is None:  # autograd's own
        norms = [E * 4] * 4 + [4] * 2  # in float32
        # inputs of the linear layers: where those are cast, one for each
        inputs = [E * width] * (5 if width == 2 else 2) + [queries * width]
        return [*norms, *attention, *inputs, *[F * width] * 4]
    norms = [E * width] * 2 + [4] * 2  # inputs and scales
    kept = [*norms, *attention, F * width, F * width]  # and the MLP's gate and up
    targets, parts = _targets(shapes, lora), parts_of(config)
    # layers that read the same tensor, which is kept once
    for names in (parts.qkv, (parts.out,), parts.up, (parts.down,)):
        num_adapters, num_inputs = sum(name in targets for name in names), shapes[names[0]][0]
        if num_adapters:  # the input, its dropout mask, and the adapters' inner states
            mask = num_inputs if lora.dropout else 0
            kept += [num_inputs * width, mask, lora.r * width * num_adapters]
    return kept


def _beside(config: Config, width: int) -> list[int]:
    """Bytes a token of each tensor that the widest step holds beside what is kept."""
    E, F = config["hidden_size"], inner_size(config)
    queries, keys = head_sizes(config)
    return [F * width] * 4 + [E * width] * 4 + [queries * 4] + [keys * 4] * 4
