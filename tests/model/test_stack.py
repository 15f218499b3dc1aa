"""Stacks against peft, bitsandbytes and themselves; the merge."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from bezoar.errors import DataError, RecipeError, TrainingError
from bezoar.model.adapter import save_adapter
from bezoar.model.linear import NF4Weight, drop_mask
from bezoar.model.merge import compare, merge
from bezoar.model.prompt_group import Completion, PromptGroup, answer, score_group
from bezoar.model.resolve import stack_identity
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


LORAS = [LoRA(4, 6.0, 0.0), LoRA(3, 24.0, 0.1, ("q_proj", "v_proj")), LoRA(4, 6.0, 0.0)]


def with_top(model: Path, below: list[Path], number: int) -> Stack:
    """A stack whose top adapter has random, not zero, weights."""
    stack = Stack(ModelSpec(str(model), dtype="float32"), below)
    torch.manual_seed(number)
    for parameter in stack.add_adapter(LORAS[number], seed=number).values():
        parameter.data.normal_(0, 0.1)
    return stack


def write_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """Adapters that are each their own alone, as those of peft are and ours were."""
    paths: list[Path] = []
    for number in range(count):
        stack = with_top(model, paths, number)
        tops = {name: layer.top for name, layer in stack.layers() if layer.top is not None}
        save_adapter(folder / str(number), tops, base=str(model))
        paths.append(folder / str(number))
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


def plain_net(model: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        model, attn_implementation="eager", dtype=torch.float32
    )


def test_the_adapter_of_a_stack_is_whole_in_peft(
    tiny_model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    # 1) the stack as peft knows it: three adapters of unlike ranks, scales and targets
    net = PeftModel.from_pretrained(plain_net(tiny_model), adapters[0], adapter_name="0")
    for number in (1, 2):
        net.load_adapter(adapters[number], adapter_name=str(number))
    net.base_model.set_adapter(["0", "1", "2"])
    theirs = plain_values(net.eval())
    ours = with_top(tiny_model, adapters[:2], 2)
    assert torch.allclose(values(ours), theirs, atol=1e-4)
    # 2) saved with what is below it, alone on the base
    folder = ours.save_trained(tmp_path)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole = PeftModel.from_pretrained(plain_net(base), folder)
    assert torch.allclose(plain_values(whole.eval()), theirs, atol=1e-4)
    # 3) and as a stack of ours, which goes on from it
    spec = ModelSpec(str(tiny_model), dtype="float32")
    again = Stack(spec, [folder])
    assert torch.allclose(values(again), theirs, atol=1e-4)
    assert {len(a.down) for _, layer in again.layers() for a in layer.lower} == {4 + 4, 4 + 3 + 4}
    for parameter in again.add_adapter(LORAS[1], seed=5).values():
        parameter.data.normal_(0, 0.1)
    again.net.eval()
    higher = again.save_trained(tmp_path / "higher")
    assert torch.allclose(values(Stack(spec, [higher])), values(again), atol=1e-4)
    assert not torch.allclose(values(again), theirs, atol=1e-2)


def test_one_adapter_by_itself_keeps_its_rank_and_scale(tiny_model: Path, tmp_path: Path) -> None:
    folder = with_top(tiny_model, [], 1).save_trained(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 24, 0.1)
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_where_the_base_lies_is_no_part_of_the_identity(
    tiny_model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapters[0], tmp_path / "copy")
    spec = ModelSpec(str(tiny_model))
    before = stack_identity(spec, adapters[:1])
    config = json.loads((copy / "adapter_config.json").read_text())
    moved = {**config, "base_model_name_or_path": "elsewhere"}
    (copy / "adapter_config.json").write_text(json.dumps(moved))
    (copy / "README.md").write_text("words")
    assert stack_identity(spec, [copy]) == before
    (copy / "adapter_config.json").write_text(json.dumps({**moved, "lora_alpha": 7.0}))
    assert stack_identity(spec, [copy]) != before


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
