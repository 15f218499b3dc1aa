"""Generation against transformers' `generate` and against plain sampling."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Message
from bezoar.errors import DataError
from bezoar.model.generation import Generated, generate, stream
from bezoar.model.merge import merged_weights
from bezoar.model.sampling import Sampler, SamplingParams, sample_tokens
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack


def some_prompts(num: int, vocabulary: int, longest: int = 60) -> list[list[int]]:
    """Random prompts; every third begins like others do."""
    rng = random.Random(0)
    stem = [rng.randrange(3, vocabulary) for _ in range(25)]
    prompts = [
        [rng.randrange(3, vocabulary) for _ in range(rng.randrange(1, longest))] for _ in range(num)
    ]
    return [stem + p if i % 3 == 0 else p for i, p in enumerate(prompts)]


def reference(net: Any, prompt: list[int], params: SamplingParams) -> list[int]:
    """The answer of transformers' `generate`, alone and without padding."""
    made = net.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=params.max_tokens,
        do_sample=False,
        eos_token_id=list(params.stop_tokens) or None,
        pad_token_id=0,
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return next((tokens[:i] for i, t in enumerate(tokens) if t in params.stop_tokens), tokens)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Stack:
    return Stack(ModelSpec(str(tiny_model), dtype="float32"), device="cpu")


@pytest.fixture(scope="module")
def tiny_reference(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def text_prompt(tokenizer: Any, text: str) -> list[int]:
    return ChatML().prompt((Message("user", text),), tokenizer)


def test_greedy_equals_transformers(tiny: Stack, tiny_reference: Any) -> None:
    prompts = some_prompts(20, 272)
    params = SamplingParams(max_tokens=16, stop_tokens=tuple(range(100, 112)))
    wanted = [reference(tiny_reference, p, params) for p in prompts]
    for slots in (1, 5, 32):
        made = generate(tiny, prompts, params, slots=slots)
        assert [m.tokens for m in made] == wanted
        assert [m.finish for m in made] == ["length" if len(w) == 16 else "stop" for w in wanted]
    assert {"length", "stop"} == {m.finish for m in made}, "the prompts do not test both ends"


def test_greedy_equals_transformers_for_a_trained_model() -> None:
    folder = Path(os.environ.get("BEZOAR_DATA", "")) / "models" / "stories260K"
    if not (folder / "config.json").is_file():
        pytest.skip("BEZOAR_DATA with models/stories260K is not set")
    stack = Stack(ModelSpec(str(folder), dtype="float32"), device="cpu")
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encode = stack.tokenizer.encode
    prompts = [
        [1, *encode(text)]
        for text in (
            "Once upon a time",
            "Lily and Ben went to the park. They",
            "The dog",
            "Tom was sad because",
        )
    ]
    params = SamplingParams(max_tokens=40, stop_tokens=(2,))
    made = generate(stack, prompts, params, slots=3)
    assert [m.tokens for m in made] == [reference(net, p, params) for p in prompts]
    assert "time" in stack.tokenizer.decode([*prompts[0], *made[0].tokens])


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_adapters_are_part_of_the_dense_weights(
    tiny_model: Path, tmp_path: Path, quantize: Any
) -> None:
    spec = ModelSpec(str(tiny_model), quantize, "float32")
    folders: list[Path] = []
    for number in range(2):
        stack = Stack(spec, folders, device="cpu")
        torch.manual_seed(number)
        for parameter in stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=number).values():
            parameter.data.normal_(0, 0.1)
        stack.save_trained(tmp_path / str(number))
        folders.append(tmp_path / str(number) / "adapter")
    stack = Stack(spec, folders[:1], device="cpu")
    for parameter in stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=9).values():
        parameter.data.normal_(0, 0.1)
    prompts, params = some_prompts(12, 272), SamplingParams(max_tokens=20)
    with_top = generate(stack, prompts, params)
    with stack.disable_adapter():
        below = generate(stack, prompts, params)
    assert with_top != below
    assert below == generate(Stack(spec, folders[:1], device="cpu"), prompts, params)
    for made in (with_top, below):  # each token is the likeliest one of the stack as it is scored
        with stack.disable_adapter() if made is below else torch.no_grad():
            for prompt, one in zip(prompts, made, strict=True):
                assert_greedy(stack, prompt, one.tokens)
    assert not any("forward" in vars(layer) for _, layer in stack.layers()), (
        "the layers are not as before"
    )


def assert_greedy(stack: Stack, prompt: list[int], tokens: list[int]) -> None:
    with torch.no_grad():
        from bezoar.model.packed import pack
        from bezoar.model.prompt_group import answer

        logits = stack.hidden(pack([answer(prompt, tokens)])) @ stack.head_weight.T
    margin = logits.max(-1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert float(margin.max()) < 1e-3


def test_bfloat16_follows_float32_closely(tiny_model: Path) -> None:
    """Dense bfloat16 weights in their own layout multiply like plain ones: the logits differ by
    rounding."""
    stack = Stack(ModelSpec(str(tiny_model), dtype="bfloat16"), device="cpu")
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad(), merged_weights(stack) as head:
        layer = stack.net.model.layers[0].mlp.up_proj
        torch.testing.assert_close(
            layer(x), torch.nn.functional.linear(x, layer.weight), atol=0.02, rtol=0.02
        )
        torch.testing.assert_close(
            head(x), x.float() @ stack.head_weight.float().T, atol=0.1, rtol=0.02
        )
        mlp = stack.net.model.layers[0]._mlp
        fused = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(fused, mlp(x), atol=0.02, rtol=0.02)
    made = generate(stack, some_prompts(8, 272), SamplingParams(max_tokens=16))
    assert made == generate(stack, some_prompts(8, 272), SamplingParams(max_tokens=16))


def test_draws_repeat_and_do_not_depend_on_neighbours(tiny: Stack) -> None:
    prompts = some_prompts(10, 272)
    params = [
        SamplingParams(max_tokens=12, temperature=0.8, top_p=0.9 if i % 2 else 1.0, seed=i)
        for i in range(10)
    ]
    together = generate(tiny, prompts, params, slots=4)
    assert together == generate(tiny, prompts, params, slots=4)
    assert together[7:] == generate(tiny, prompts[7:], params[7:], slots=4)
    assert together[:3] != generate(
        tiny,
        prompts[:3],
        [SamplingParams(max_tokens=12, temperature=0.8, seed=i + 50) for i in range(3)],
    )


def test_drawn_tokens_have_the_right_chances() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])
    num = 4000

    def shares(**params: float) -> torch.Tensor:
        samplers = [Sampler(SamplingParams(seed=i, **params)) for i in range(num)]  # type: ignore[arg-type]
        drawn = torch.tensor(sample_tokens(logits.expand(num, -1), samplers))
        return torch.bincount(drawn, minlength=5) / num

    whole = (logits / 0.7).softmax(-1)
    assert float((shares(temperature=0.7) - whole).abs().max()) < 0.03
    # 0.64 + 0.24 is the first sum above 0.8
    nucleus = torch.where(torch.arange(5) < 2, logits.softmax(-1), 0.0)
    assert float((shares(temperature=1.0, top_p=0.8) - nucleus / nucleus.sum()).abs().max()) < 0.03
    assert shares(temperature=1.0, top_p=0.8)[2:].sum() == 0
    assert shares(temperature=0.0)[0] == 1


@pytest.mark.parametrize("size", [7, 272, 4096])
def test_the_first_of_equal_logits_is_taken(size: int) -> None:
    logits = torch.randint(0, 40, (50, size), generator=torch.Generator().manual_seed(0)).float()
    logits[0] = float("-inf")
    wanted = [row.index(max(row)) for row in logits.tolist()]
    assert sample_tokens(logits, [Sampler(SamplingParams())] * 50) == wanted


def test_a_nucleus_wider_than_the_first_look() -> None:
    logits = torch.zeros(1, 5000)
    drawn = [
        sample_tokens(logits, [Sampler(SamplingParams(temperature=1.0, top_p=0.99, seed=i))])[0]
        for i in range(60)
    ]
    assert max(drawn) > 1000
    assert len(set(drawn)) > 50


def test_stop_strings_and_limits(tiny: Stack) -> None:
    prompt = text_prompt(tiny.tokenizer, "hello there")
    free = generate(tiny, [prompt], SamplingParams(max_tokens=40))[0]
    text = tiny.tokenizer.decode(free.tokens)
    stop = text[8:11]
    made = generate(tiny, [prompt], SamplingParams(max_tokens=40, stop=("never this", stop)))[0]
    assert made.finish == "stop"
    assert made.tokens == free.tokens[: len(made.tokens)]
    assert tiny.tokenizer.decode(made.tokens).endswith(stop)
    assert stop not in tiny.tokenizer.decode(made.tokens[:-1])
    assert generate(tiny, [prompt], SamplingParams(max_tokens=1))[0] == Generated(
        free.tokens[:1], "length"
    )


def test_the_context_is_the_limit(tiny: Stack, tiny_reference: Any) -> None:
    prompts = [[5] * 505, [6] * 512, [], [7] * 511]
    made = generate(tiny, prompts, SamplingParams(max_tokens=100))
    assert [(len(m.tokens), m.finish) for m in made] == [
        (7, "length"),
        (0, "error"),
        (0, "error"),
        (1, "length"),
    ]
    assert made[0].tokens == reference(tiny_reference, prompts[0], SamplingParams(max_tokens=7))
    assert generate(tiny, [], SamplingParams()) == []


def test_a_stream_says_what_generate_writes(tiny: Stack) -> None:
    messages = (Message("user", "Tell me"),)
    pieces = list(stream(tiny, ChatML(), messages, temperature=0.0, max_tokens=60))
    params = SamplingParams(max_tokens=60, stop_tokens=(259,))
    whole = generate(tiny, [ChatML().prompt(messages, tiny.tokenizer)], params)[0]
    assert "".join(pieces) == tiny.tokenizer.decode(whole.tokens)
    assert len(pieces) > 5
    with pytest.raises(DataError, match="no room"):
        next(stream(tiny, ChatML(), (Message("user", "x" * 600),)))
