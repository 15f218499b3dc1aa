"""The computations that the doctor compares, on a model of two layers: fast paths and slow ones.

Each gives values, and gradients of a weighted sum of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.model.attention import Segment, attend_flex, block_mask
from bezoar.model.chunked_logprobs import logprobs
from bezoar.model.layer import fast_layers, recompute
from bezoar.model.linear import NF4Weight
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup, answer
from bezoar.model.resolve import silence_libraries
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.optim import make_optimizer

Result = tuple[Tensor, list[Tensor]]
"""Values, and gradients of a weighted sum of them."""


def make_model(folder: Path) -> None:
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


def stack_with_adapter(spec: ModelSpec, device: str | None) -> Stack:
    """With a small adapter that does something."""
    stack = Stack(spec, device=device)
    generator = torch.Generator().manual_seed(1)
    # adapters begin at 0, where they would hide every fault of their gradients
    for parameter in stack.add_adapter(LoRA(r=4, alpha=8.0, dropout=0.0), seed=0).values():
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return stack


def prompt_groups() -> list[PromptGroup]:
    generator = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = torch.randint(5, 300, (count,), generator=generator).tolist()
        return drawn

    sizes = ((20, (9, 4)), (1, (6,)), (150, (140, 30)), (33, (2, 2, 7)))
    beginning = tokens(90)
    return [
        *(
            PromptGroup(tokens(n), [Completion(tokens(m), [True] * m) for m in answers])
            for n, answers in sizes
        ),
        # these begin alike
        *(answer(beginning + tokens(n), tokens(m)) for n, m in ((5, 3), (0, 8), (20, 6))),
    ]


def _weighted(values: Tensor, inputs: list[Tensor]) -> Result:
    # weights that differ everywhere: errors of opposite sign do not cancel in the gradient
    weights = torch.linspace(-1, 1, values.numel(), device=values.device).view(values.shape)
    return values, list(torch.autograd.grad((weights * values.float()).sum(), inputs))


def _values(stack: Stack, groups: list[PromptGroup], *, share: bool = True) -> Tensor:
    batch = pack(groups, share=share).to(stack.device)
    return stack.output.logprobs(stack.hidden(batch), batch.target)


def run(stack: Stack, groups: list[PromptGroup], *, share: bool = True) -> Result:
    stack.net.train()
    return _weighted(_values(stack, groups, share=share), _parameters(stack))


def _parameters(stack: Stack) -> list[Tensor]:
    if stack.top is None:
        return [weight for _, weight in sorted(stack.net.named_parameters())]
    return [w for _, layer in stack.layers() if layer.top for w in (layer.top.down, layer.top.up)]


def run_each(stack: Stack, groups: list[PromptGroup]) -> Result:
    return _weighted(torch.cat([_values(stack, [group]) for group in groups]), _parameters(stack))


def run_slow_layers(stack: Stack, groups: list[PromptGroup]) -> Result:
    layers = fast_layers(stack.net)
    for layer in layers:
        layer.fast = False
    try:
        return run(stack, groups)
    finally:
        for layer in layers:
            layer.fast = True


def run_with_dropout(stack: Stack, groups: list[PromptGroup], *, recomputed: bool) -> Result:
    """What is dropped once must be dropped again."""
    tops = [layer.top for _, layer in stack.layers() if layer.top]
    recompute(stack.net, on=recomputed)
    for top in tops:
        top.dropout = 0.1
    try:
        torch.manual_seed(6)
        return run(stack, groups)
    finally:
        recompute(stack.net, on=False)
        for top in tops:
            top.dropout = 0.0


def run_after_evaluation(stack: Stack, groups: list[PromptGroup]) -> Result:
    stack.net.eval()
    with torch.no_grad():
        _values(stack, groups)
    return run(stack, groups)


def run_unkept(stack: Stack, groups: list[PromptGroup]) -> Result:
    packed = [layer.weight for _, layer in stack.layers() if isinstance(layer.weight, NF4Weight)]
    kept = [weight.kept for weight in packed]
    for weight in packed:
        weight.kept = None
    try:
        return run(stack, groups)
    finally:
        for weight, matrix in zip(packed, kept, strict=True):
            weight.kept = matrix


def run_plain(model: Path, adapter: Path | None, groups: list[PromptGroup]) -> Result:
    """transformers on the CPU: one sequence at a time, eager attention, full logits; with an
    adapter by peft, else of all weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    net: Any = AutoModelForCausalLM.from_pretrained(
        model, attn_implementation="eager", dtype=torch.float32
    )
    parameters: list[Tensor] = [weight for _, weight in sorted(net.named_parameters())]
    if adapter:
        net = PeftModel.from_pretrained(net, adapter / "adapter", is_trainable=True)
        parameters = [weight for weight in net.parameters() if weight.requires_grad]
    values = []
    for group in groups:
        for completion in group.completions:
            row = torch.tensor([group.prompt + completion.tokens])
            logs = net(input_ids=row).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)
            values.append(logs.gather(1, row[0, len(group.prompt) :, None])[:, 0])
    return _weighted(torch.cat(values), parameters)


def flex(query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...]) -> Tensor:
    return attend_flex(query, key, value, block_mask(segments, query.device))


def attention(compute: Callable[..., Tensor], device: torch.device) -> Result:
    generator = torch.Generator().manual_seed(3)
    segments = (Segment(0, 300, 0, 0), Segment(300, 340, 0, 170), Segment(340, 400, 0, 0))
    inputs = [
        torch.randn(1, n, 400, 16, generator=generator).to(device).requires_grad_()
        for n in (4, 2, 2)
    ]
    return _weighted(compute(*inputs, segments), inputs)


def head(fast: bool, device: torch.device) -> Result:
    """The log-probabilities of an output embedding that trains."""
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (
        torch.randn(n, 32, generator=generator).to(device).requires_grad_() for n in (50, 700)
    )
    target = torch.randint(700, (50,), generator=generator).to(device)
    if fast:
        return _weighted(logprobs(hidden, weight, target, held=7 * 700), [hidden, weight])
    return _weighted(
        (hidden @ weight.T).log_softmax(-1).gather(1, target[:, None])[:, 0], [hidden, weight]
    )


def optimizer_steps(fast: bool, device: torch.device) -> Result:
    """A matrix after three steps of AdamW, and its moments."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.nn.Parameter(torch.randn(30, 40, generator=generator).to(device))
    optimizer = make_optimizer("adamw", {"layer.weight": weight}, lr=0.1, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["fused"] = fast
    for _ in range(3):
        weight.grad = torch.randn(30, 40, generator=generator).to(device)
        optimizer.step()
    state = optimizer.state[weight]
    return weight.detach(), [state["exp_avg"], state["exp_avg_sq"]]
