"""Every architecture against transformers, forward and gradient, on every path there is."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bezoar.errors import DataError, RecipeError
from bezoar.model.architectures import ARCHITECTURES
from bezoar.model.generation import generate
from bezoar.model.layer import fast_layers, recompute
from bezoar.model.linear import linear_layers
from bezoar.model.merge import merge
from bezoar.model.packed import pack
from bezoar.model.prompt_group import PromptGroup, answer, prompt_group, score_group
from bezoar.model.sampling import SamplingParams
from bezoar.model.score import rewards
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.layer_shapes import layer_shapes
from tests.helpers.tiny_nets import VARIANTS, make, make_kind

GROUPS = [
    prompt_group(range(5, 17), [range(30, 39), [40, 41]]),  # 21 positions, above every window
    answer([7, 8, 9], [60, 61, 62, 63]),
    answer([100], [101]),
]
PROMPTS = [list(range(5, 25)), [*range(5, 23), 90, 91], [7, 8, 9]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    work = tmp_path_factory.mktemp("nets")
    return cache(lambda name: make(name, work / name, tiny_model))


def theirs(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def plain_values(net: Any) -> Tensor:
    """One sequence at a time, full logits."""
    found = []
    for group in GROUPS:
        for completion in group.completions:
            row = torch.tensor([group.prompt + completion.tokens])
            logs = net(input_ids=row).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)
            found.append(logs.gather(1, row[0, len(group.prompt) :, None])[:, 0])
    return torch.cat(found)


def packed_values(stack: Stack, groups: list[PromptGroup] = GROUPS) -> Tensor:
    batch = pack(groups)
    return stack.output.logprobs(stack.hidden(batch), batch.target)


def weighted(values: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, values.numel())
    return [values.detach(), *torch.autograd.grad((weights * values).sum(), inputs)]


def same(ours: list[Tensor], others: list[Tensor]) -> None:
    for one, two in zip(ours, others, strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5 * max(1.0, float(two.abs().max())))


@pytest.mark.parametrize("name", VARIANTS)
def test_training_adapters_and_exporting_them(folder: Any, name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    # 1) adapters on all linear layers, on the fast path, recomputed, and on transformers' layers
    stack = Stack(ModelSpec(str(folder(name)), dtype="float32"))
    named = stack.add_adapter(LoRA(r=3, dropout=0.0), seed=0)
    torch.manual_seed(1)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    stack.net.train()
    stack.save_trained(tmp_path)
    inputs = list(named.values())
    fast = weighted(packed_values(stack), inputs)
    assert len(fast_layers(stack.net)) == 2
    assert recompute(stack.net)
    same(weighted(packed_values(stack), inputs), fast)
    recompute(stack.net, on=False)
    for layer in fast_layers(stack.net):
        layer.fast = False
    same(weighted(packed_values(stack), inputs), fast)
    # 2) against peft
    net = PeftModel.from_pretrained(theirs(folder(name)), tmp_path / "adapter", is_trainable=True)
    by_name = {n.replace(".default", ""): p for n, p in net.named_parameters()}
    same(fast, weighted(plain_values(net.eval()), [by_name[n] for n in named]))
    # 3) merged
    stack.net.eval()
    agreement = merge(stack, tmp_path / "merged", rows=[[1, 2, 3, 4]], max_mean_kl=1e-5)
    assert agreement is not None
    same([plain_values(theirs(tmp_path / "merged")).detach()], [fast[0]])


@pytest.mark.parametrize("name", VARIANTS)
def test_training_all_weights(folder: Any, name: str) -> None:
    stack = Stack(ModelSpec(str(folder(name)), dtype="float32"))
    named = stack.add_adapter(None, seed=0)
    stack.net.train()
    net = theirs(folder(name))
    others = dict(net.named_parameters())
    assert named.keys() == others.keys()
    ours = weighted(packed_values(stack), list(named.values()))
    same(ours, weighted(plain_values(net), [others[n] for n in named]))


@pytest.mark.parametrize("name", VARIANTS)
def test_generation_and_score_heads(folder: Any, name: str) -> None:
    stack = Stack(ModelSpec(str(folder(name)), dtype="float32"))
    net = theirs(folder(name))
    # 1) greedy answers; two prompts share a prefix that is longer than the window
    drawn = generate(stack, PROMPTS, SamplingParams(12, temperature=0.0))
    for prompt, found in zip(PROMPTS, drawn, strict=True):
        options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 271}
        row = net.generate(torch.tensor([prompt]), pad_token_id=0, **options)
        assert found.tokens == row[0, len(prompt) :].tolist()
    # 2) a head on the states of the last tokens
    stack.add_adapter(LoRA(r=2), seed=0, outputs=("good",))
    assert stack.score_head is not None
    for group, values in zip(GROUPS, rewards(stack, scored(GROUPS)), strict=True):
        for completion, value in zip(group.completions, values, strict=True):
            row = torch.tensor([group.prompt + completion.tokens])
            with torch.no_grad():
                last = net.base_model(input_ids=row).last_hidden_state[:, -1]
                assert value == pytest.approx(stack.score_head(last)[0].tolist(), abs=1e-4)


def scored(groups: list[PromptGroup]) -> list[PromptGroup]:
    return [score_group(group.prompt, [c.tokens for c in group.completions]) for group in groups]


@pytest.mark.parametrize("targets", [("q_proj",), ("query_key_value", "q_proj")])
def test_targets_that_name_no_layer(folder: Any, targets: tuple[str, ...]) -> None:
    stack = Stack(ModelSpec(str(folder("falcon-7b")), dtype="float32"))
    with pytest.raises(RecipeError) as error:
        stack.add_adapter(LoRA(targets=targets), seed=0)
    assert "no linear layer named q_proj; it has query_key_value, dense, dense_h_to_4h" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("name", "key"), [("falcon-7b", "alibi"), ("gemma3", "use_bidirectional_attention")]
)
def test_an_attention_that_is_not_computed(
    name: str, key: str, tmp_path: Path, tiny_model: Path
) -> None:
    path = make(name, tmp_path / "odd", tiny_model, **{key: True})
    with pytest.raises(DataError, match=rf"config.json: {key}: .* name another model"):
        Stack(ModelSpec(str(path)))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("cohere", "mean KL"),  # scaled logits
        ("bloom", "mean KL"),  # positions as a bias, and an attention of its own
        ("mamba", "it carries a state from token to token"),
        ("gptj", "no attention named 'bezoar'"),
    ],
)
def test_an_architecture_that_none_fits(
    kind: str, why: str, tmp_path: Path, tiny_model: Path
) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4} if kind == "gptj" else {}
    sizes |= {"logit_scale": 0.5} if kind == "cohere" else {}
    path = make_kind(kind, tmp_path / "net", tiny_model, **sizes)
    with pytest.raises(DataError, match=rf"config.json: .*architecture {kind} \({why}.* llama, mi"):
        Stack(ModelSpec(str(path), dtype="float32"))


def test_an_architecture_on_the_layers_of_transformers(tmp_path: Path, tiny_model: Path) -> None:
    path = make_kind("starcoder2", tmp_path / "net", tiny_model)
    stack = Stack(ModelSpec(str(path), dtype="float32"))
    assert not fast_layers(stack.net)
    same([packed_values(stack).detach()], [plain_values(theirs(path)).detach()])
    gpt2 = make_kind("gpt2", tmp_path / "gpt2", tiny_model, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(RecipeError, match="has no linear layers that could carry them; set"):
        Stack(ModelSpec(str(gpt2))).add_adapter(LoRA(), seed=0)


def test_the_tables_know_the_linear_layers_of_each(folder: Any) -> None:
    from transformers import CONFIG_MAPPING

    assert {kind for kind, _ in VARIANTS.values()} == ARCHITECTURES.keys()
    for name, (kind, _) in VARIANTS.items():
        layers = list(linear_layers(theirs(folder(name))))
        shapes = {n.rpartition(".")[2]: (la.in_features, la.out_features) for n, la in layers}
        assert shapes.keys() == {*ARCHITECTURES[kind].linear}, name
        config = json.loads((folder(name) / "config.json").read_text())
        assert layer_shapes(config) == shapes, name
        assert CONFIG_MAPPING[kind]().tie_word_embeddings == ARCHITECTURES[kind].tied, name
