"""Stacks against peft, bitsandbytes and themselves; the merge."""

import json
from pathlib import Path

import pytest
import torch

from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.model.linear import NF4Weight, drop_mask
from bezoar.model.merge import compare, merge
from bezoar.model.prompt_group import Completion, PromptGroup, answer, score_group
from bezoar.model.score import rewards, score
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack

TREES = [
    PromptGroup(
        list(range(5, 17)),
        [Completion([30, 31, 32], [True, True, True]), Completion([40, 41], [True, True])],
    ),
    answer([7, 8, 9], [60, 61, 62, 63]),
    answer([100], [101]),
]


def write_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """Adapters with random, not zero, weights, saved by a stack."""
    paths: list[Path] = []
    for number in range(count):
        stack = Stack(ModelSpec(str(model), dtype="float32"), paths)
        torch.manual_seed(number)
        targets = ("q_proj", "v_proj") if number % 2 else "all-linear"
        for parameter in stack.add_adapter(
            LoRA(r=4, alpha=6, dropout=0.0, targets=targets), seed=number
        ).values():
            parameter.data.normal_(0, 0.1)
        stack.save_trained(folder / str(number))
        paths.append(folder / str(number) / "adapter")
    return paths


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_adapters(tiny_model, tmp_path_factory.mktemp("adapters"), 3)


def values(stack: Stack) -> torch.Tensor:
    return torch.cat([s.logprobs for group in score(stack, TREES) for s in group])


def plain_values(net: torch.nn.Module) -> torch.Tensor:
    """One sequence at a time, full logits."""
    found = []
    for group in TREES:
        for completion in group.completions:
            row = torch.tensor([group.prompt + completion.tokens])
            with torch.no_grad():
                logits = net(input_ids=row).logits[0, :-1].float().log_softmax(-1)
            found.append(logits.gather(1, row[0, 1:, None])[len(group.prompt) - 1 :, 0])
    return torch.cat(found)


def test_peft_reads_the_adapters_and_computes_the_same(
    tiny_model: Path, adapters: list[Path]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        tiny_model, attn_implementation="eager", dtype=torch.float32
    )
    net = PeftModel.from_pretrained(base, adapters[0], adapter_name="a0")
    net.load_adapter(adapters[1], adapter_name="a1")
    net.base_model.set_adapter(["a0", "a1"])
    ours = values(Stack(ModelSpec(str(tiny_model), dtype="float32"), adapters[:2]))
    assert torch.allclose(ours, plain_values(net.eval()), atol=1e-4)
    assert not torch.allclose(
        ours, values(Stack(ModelSpec(str(tiny_model), dtype="float32"), adapters[:1])), atol=1e-2
    )


@pytest.mark.parametrize("spec", [("none", "float32"), ("nf4", "bfloat16")])
def test_the_reference_is_the_stack_below_to_the_bit(
    tiny_model: Path, adapters: list[Path], spec: tuple[str, str]
) -> None:
    model = ModelSpec(str(tiny_model), *spec)  # type: ignore[arg-type]
    below = values(Stack(model, adapters[:2]))
    stack = Stack(model, adapters[:2])
    parameters = stack.add_adapter(LoRA(r=4), seed=1)
    assert torch.equal(values(stack), below)  # a fresh top adapter changes nothing
    for parameter in parameters.values():
        parameter.data.normal_(0, 0.1)
    assert not torch.equal(values(stack), below)
    with stack.disable_adapter():
        assert torch.equal(values(stack), below)
    whole = Stack(model, adapters)
    assert whole.identity != stack.identity
    assert not torch.equal(values(whole), below)


def test_nf4_is_that_of_bitsandbytes() -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    weight = torch.randn(64, 96, dtype=torch.bfloat16)
    theirs = bnb.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    ).to("cpu")
    expected = bnb.functional.dequantize_4bit(theirs.data, theirs.quant_state)
    ours = NF4Weight.of(weight, keep=False)
    assert torch.equal(ours(), expected)
    assert torch.equal(NF4Weight.of(weight, keep=True)(), expected)
    tensors = {
        k: v.clone()
        for k, v in {
            **ours.stored("a.b"),
            **NF4Weight.of(-weight, keep=False).stored("a.bc"),
        }.items()
    }
    assert torch.equal(NF4Weight.restored(tensors, "a.b", keep=True)(), expected)


@pytest.mark.parametrize("keep", [True, False])
def test_an_evaluation_between_steps_leaves_gradients_as_they_are(
    tiny_model: Path, keep: bool
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), "nf4"))
    named = stack.add_adapter(LoRA(r=4, dropout=0.0), seed=0)
    for name, layer in stack.layers():
        assert isinstance(layer.weight, NF4Weight), name
        layer.weight.kept = layer.weight.kept if keep else None
    for parameter in named.values():
        parameter.data.normal_(0, 0.05)

    def gradients() -> list[torch.Tensor]:
        from bezoar.model.chunked_logprobs import logprobs
        from bezoar.model.packed import pack

        stack.net.train()
        batch = pack(TREES)
        loss = -logprobs(stack.hidden(batch), stack.head_weight, batch.target).sum()
        return list(torch.autograd.grad(loss, list(named.values())))

    before = gradients()
    stack.net.eval()
    first = values(stack)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
    assert torch.equal(values(stack), first)


def test_gradients_on_nf4_are_those_of_the_dequantised_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The 4-bit stack in float32 against an ordinary model that holds the dequantised weights."""
    stack = Stack(ModelSpec(str(tiny_model), "nf4", "float32"))
    merge(stack, tmp_path / "plain")
    plain = Stack(ModelSpec(str(tmp_path / "plain"), dtype="float32"))
    assert torch.allclose(values(stack), values(plain), atol=1e-5)


def test_the_merge_of_a_reward_model_is_one(tiny_model: Path, tmp_path: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
    merge(stack, tmp_path / "merged")
    groups = [score_group([5, 6], [[7, 8]])]
    found = rewards(Stack(ModelSpec(str(tmp_path / "merged"), dtype="float32")), groups)
    assert found[0][0] == pytest.approx(rewards(stack, groups)[0][0], abs=1e-4)


def test_merge_is_near_the_stack_and_measured(
    tiny_model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), "nf4", "float32"), adapters)
    rows = [list(range(3, 40)), [5, 6, 7]]
    found = merge(stack, tmp_path / "merged", rows=rows)
    assert found is not None
    assert found.positions == 36 + 2
    assert found.mean_kl < 1e-6
    assert found.same_top == 1.0
    with pytest.raises(TrainingError, match=r"refused: not written.*mean KL .* is allowed"):
        merge(stack, tmp_path / "refused", rows=rows, max_mean_kl=-1.0)
    assert [path.name for path in tmp_path.iterdir() if "refused" in path.name] == []
    other = compare(stack, Stack(ModelSpec(str(tiny_model), dtype="float32")), rows)
    assert other.mean_kl > 0.01
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(plain_values(net.eval()), values(stack), atol=1e-3)


def test_bad_folders_are_told(tiny_model: Path, adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        Stack(ModelSpec("./nowhere"))
    with pytest.raises(DataError, match="no adapter_model"):
        Stack(ModelSpec(str(tiny_model)), [tmp_path])
    for file in adapters[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(DataError, match="use_dora"):
        Stack(ModelSpec(str(tiny_model)), [tmp_path])
    with pytest.raises(RecipeError, match="all-linear"):
        Stack(ModelSpec(str(tiny_model))).add_adapter(LoRA(targets=("qq_proj",)), seed=0)


def test_drop_mask_keeps_the_share_that_it_says() -> None:
    torch.manual_seed(0)
    mask, kept = drop_mask(torch.empty(500, 401), 0.05)
    assert mask.shape == (500, 401)
    assert kept == pytest.approx(0.95, abs=1e-4)
    assert float(mask.float().mean()) == pytest.approx(kept, abs=2e-3)
    assert torch.corrcoef(mask[:, :8].float().T).fill_diagonal_(0).abs().max() < 0.2
