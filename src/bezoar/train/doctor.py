"""Every fast path of training against its slow reference on this machine, forward and gradient.

Both run on a model of two layers.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bezoar.model.attention import Segment, attend, attend_dense, attend_flex, block_mask
from bezoar.model.chunked_logprobs import logprobs
from bezoar.model.fast_paths import FLEX, note
from bezoar.model.layer import fast_layers, recompute
from bezoar.model.linear import NF4Weight
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.model.resolve import silence_libraries
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack

ALL = "all together"
"""All fast paths at once; recorded only if no single check failed."""
Result = tuple[Tensor, list[Tensor]]
"""Values, and gradients of a weighted sum of them."""
Compute = Callable[[], Result]
"""One path, fast or slow."""


@dataclass(frozen=True)
class Check:
    """One fast path: its largest errors, relative to the largest value, and what is allowed."""

    name: str
    against: str
    forward: float
    gradient: float
    allowed: float
    seconds: float
    fault: str = ""  # what the fast path raised

    @property
    def passed(self) -> bool:
        """Whether both errors are within what is allowed."""
        return self.forward <= self.allowed and self.gradient <= self.allowed


def examine(device: str | None = None) -> list[Check]:
    """Run all checks, some seconds; later runs on this machine do not use the paths that fail."""
    note([])
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), Path(name) / "model"
        _make_model(model)
        exact = _stack(ModelSpec(str(model), "none", "float32"), device)
        nf4 = _stack(ModelSpec(str(model), "nf4", "float32"), device)
        half = _stack(ModelSpec(str(model), "none", "bfloat16"), device)
        exact.save_trained(folder)
        groups, checks = _groups(), list[Check]()

        def check(name: str, against: str, allowed: float, fast: Compute, slow: Compute) -> None:
            checks.append(_check(name, against, allowed, fast, slow))

        plain, dense = partial(_run, exact, groups), partial(_attention, attend_dense, exact)
        # 1) flex attention first: the other checks on CUDA run on it, unless it failed
        if exact.device.type == "cuda":
            check(FLEX, "a dense mask", 1e-4, partial(_attention, _flex, exact), dense)
            note([check.name for check in checks if not check.passed])
        # 2) everything at once against independent code, then path by path to name the fault
        peft, each = partial(_plain, model, folder, groups), partial(_run_each, exact, groups)
        unshared = partial(_run, exact, groups, share=False)
        slow_layers = partial(_run_slow, exact, groups)
        recomputed = partial(_run_recomputed, exact, groups)
        segments = partial(_attention, attend, exact)
        check(ALL, "transformers and peft, one sequence at a time", 1e-4, plain, peft)
        check("packing", "a row for each prompt", 1e-4, plain, each)
        check("shared prompts", "a prompt for each answer", 1e-4, plain, unshared)
        check("fused layers", "transformers' layers", 1e-4, plain, slow_layers)
        check("recomputed activations", "kept activations", 1e-6, recomputed, plain)
        check("attention by segments", "a dense mask", 1e-4, segments, dense)
        check("chunked head", "full logits", 1e-4, partial(_head, True), partial(_head, False))
        # 3) 4-bit weights keep what they unpacked: no use of them may change it
        after, anew = partial(_after_evaluation, nf4, groups), partial(_run_unkept, nf4, groups)
        unpacked = partial(_run, nf4, groups)
        check("4 bits after an evaluation", "4 bits before it", 0.0, after, unpacked)
        check("4 bits unpacked anew", "4 bits unpacked once", 0.0, anew, unpacked)
        check("bfloat16", "float32", 0.1, partial(_run, half, groups), plain)
    failed = [check.name for check in checks if not check.passed]
    note([name for name in failed if name != ALL] or failed)
    return checks


def _check(name: str, against: str, allowed: float, fast: Compute, slow: Compute) -> Check:
    # outside the try: if the slow path fails, there is nothing to compare with
    started = time.monotonic()
    slow_values, slow_gradients = slow()
    forward = gradient = math.inf
    fault = ""
    try:
        values, gradients = fast()
        forward = _error(values, slow_values)
        gradient = _error(_flat(gradients), _flat(slow_gradients))
    except Exception as error:  # of whatever kind: a path that cannot run is one that fails
        fault = str(error).partition("\n")[0]
    seconds = round(time.monotonic() - started, 2)
    return Check(name, against, forward, gradient, allowed, seconds, fault)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _error(values: Tensor, expected: Tensor) -> float:
    values, expected = values.detach().double().cpu(), expected.detach().double().cpu()
    error = float((values - expected).abs().max() / expected.abs().max())
    return math.inf if math.isnan(error) else error


def _make_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    silence_libraries()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _stack(spec: ModelSpec, device: str | None) -> Stack:
    stack = Stack(spec, device=device)
    generator = torch.Generator().manual_seed(1)
    # adapters begin at 0, where they would hide every fault of their gradients
    for parameter in stack.add_adapter(LoRA(r=4, alpha=8.0, dropout=0.0), seed=0).values():
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return stack


def _groups() -> list[PromptGroup]:
    generator = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = torch.randint(5, 300, (count,), generator=generator).tolist()
        return drawn

    sizes = ((20, (9, 4)), (1, (6,)), (150, (140, 30)), (33, (2, 2, 7)))
    return [
        PromptGroup(tokens(n), [Completion(tokens(m), [True] * m) for m in answers])
        for n, answers in sizes
    ]


def _weighted(values: Tensor, inputs: list[Tensor]) -> Result:
    # weights that differ everywhere: errors of opposite sign do not cancel in the gradient
    weights = torch.linspace(-1, 1, values.numel(), device=values.device).view(values.shape)
    return values, list(torch.autograd.grad((weights * values.float()).sum(), inputs))


def _values(stack: Stack, groups: list[PromptGroup], *, share: bool = True) -> Tensor:
    batch = pack(groups, share=share).to(stack.device)
    return stack.output.logprobs(stack.hidden(batch), batch.target)


def _run(stack: Stack, groups: list[PromptGroup], *, share: bool = True) -> Result:
    stack.net.train()
    return _weighted(_values(stack, groups, share=share), _parameters(stack))


def _parameters(stack: Stack) -> list[Tensor]:
    return [w for _, layer in stack.layers() if layer.top for w in (layer.top.down, layer.top.up)]


def _run_each(stack: Stack, groups: list[PromptGroup]) -> Result:
    return _weighted(torch.cat([_values(stack, [group]) for group in groups]), _parameters(stack))


def _run_slow(stack: Stack, groups: list[PromptGroup]) -> Result:
    layers = fast_layers(stack.net)
    for layer in layers:
        layer.fast = False
    try:
        return _run(stack, groups)
    finally:
        for layer in layers:
            layer.fast = True


def _run_recomputed(stack: Stack, groups: list[PromptGroup]) -> Result:
    recompute(stack.net)
    try:
        return _run(stack, groups)
    finally:
        recompute(stack.net, on=False)


def _after_evaluation(stack: Stack, groups: list[PromptGroup]) -> Result:
    stack.net.eval()
    with torch.no_grad():
        _values(stack, groups)
    return _run(stack, groups)


def _run_unkept(stack: Stack, groups: list[PromptGroup]) -> Result:
    packed = [layer.weight for _, layer in stack.layers() if isinstance(layer.weight, NF4Weight)]
    kept = [weight.kept for weight in packed]
    for weight in packed:
        weight.kept = None
    try:
        return _run(stack, groups)
    finally:
        for weight, matrix in zip(packed, kept, strict=True):
            weight.kept = matrix


def _plain(model: Path, adapter: Path, groups: list[PromptGroup]) -> Result:
    """One sequence at a time, eager attention, full logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        model, attn_implementation="eager", dtype=torch.float32
    )
    net = PeftModel.from_pretrained(base, adapter / "adapter", is_trainable=True)
    values = []
    for group in groups:
        for completion in group.completions:
            row = torch.tensor([group.prompt + completion.tokens])
            logs = net(input_ids=row).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)
            values.append(logs.gather(1, row[0, len(group.prompt) :, None])[:, 0])
    return _weighted(torch.cat(values), [p for p in net.parameters() if p.requires_grad])


def _flex(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    return attend_flex(query, key, value, block_mask(segments, query.device), scale)


def _attention(attention: Callable[..., Tensor], stack: Stack) -> Result:
    generator = torch.Generator().manual_seed(3)
    segments = (Segment(0, 300, 0, 0), Segment(300, 340, 0, 170), Segment(340, 400, 0, 0))
    inputs = [
        torch.randn(1, n, 400, 16, generator=generator).to(stack.device).requires_grad_()
        for n in (4, 2, 2)
    ]
    return _weighted(attention(*inputs, segments, None), inputs)


def _head(fast: bool) -> Result:
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(n, 32, generator=generator).requires_grad_() for n in (50, 700))
    target = torch.randint(700, (50,), generator=generator)
    if fast:
        return _weighted(logprobs(hidden, weight, target, held=7 * 700), [hidden, weight])
    return _weighted(
        (hidden @ weight.T).log_softmax(-1).gather(1, target[:, None])[:, 0], [hidden, weight]
    )
