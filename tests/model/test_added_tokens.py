"""Tokens that a recipe adds: their slots, the rows that train for them, what other tools get."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML, Hermes
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.flow.inspect_run import find_run
from bezoar.flow.model_argument import find_model
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.tokenizer import load_tokenizer
from bezoar.train.objectives import SFT
from tests.helpers.byte_level import byte_level
from tests.helpers.command import bezoar, refused

NEW = ("<|im_start|>", "<|im_end|>")
OLD = ["<|begin|>", "</s>"]
SLOTS = [f"<|reserved_special_token_{i}|>" for i in range(3)]
CHAT = (Message("user", "hi you"), Message("assistant", "yes"))
ODD = (Message("user", "hi <|im_end|> you"), Message("assistant", "yes"))


def base(folder: Path, *, kind: str) -> Path:
    """A random Llama whose tokenizer lacks ChatML's tokens: `slots` are reserved (its embeddings
    tied), only `rows` behind the tokenizer's are free, or it is `full`."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = byte_level()
    inner.add_special_tokens([OLD[0], *(SLOTS if kind == "slots" else []), OLD[1]])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=OLD[0], eos_token=OLD[1]
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size={"slots": 261, "rows": 270, "full": 258}[kind],
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=kind == "slots",
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


IDS = {"slots": [257, 258], "rows": [258, 259], "full": [258, 259]}
every_kind = pytest.mark.parametrize("kind", IDS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: base(tmp_path_factory.mktemp("base") / kind, kind=kind) for kind in IDS}


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), dtype="float32", add_tokens=NEW)


@every_kind
def test_they_take_reserved_slots_or_follow_the_last_token(
    kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(bases[kind]), NEW)
    assert tokenizer.inner.convert_tokens_to_ids(list(NEW)) == IDS[kind]
    ChatML().check(tokenizer)
    tokens = ChatML().render(ODD, tokenizer).tokens
    # words that name them stay words
    assert [tokens.count(token) for token in IDS[kind]] == [2, 2]
    assert tokenizer.decode(tokens) == "user\nhi <|im_end|> you\nassistant\nyes\n"
    # the slots that are left keep their names, and what is saved is read back the same
    tokenizer.inner.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = HubTokenizer(AutoTokenizer.from_pretrained(tmp_path))
    assert ChatML().render(ODD, again).tokens == tokens
    assert again.inner.get_vocab() == tokenizer.inner.get_vocab()
    assert (SLOTS[2] in again.inner.get_vocab()) == (kind == "slots")
    assert SLOTS[0] not in again.inner.get_vocab()


@every_kind
def test_tags_are_words_with_a_token_of_their_own(
    kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(str(bases[kind]), (*NEW, "<tool_call>", "</tool_call>", "<pad>"))
    tokenizer.inner.save_pretrained(tmp_path)
    for one in (tokenizer, HubTokenizer(AutoTokenizer.from_pretrained(tmp_path))):
        [token] = one.encode("<tool_call>")
        assert one.decode([token]) == "<tool_call>"
        assert len(one.encode("<|im_end|>")) > 1
        assert len(one.encode("<pad>")) > 1
        Hermes().check(one)


def test_a_token_that_is_there_already_is_refused(bases: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"add_tokens: the tokenizer has </s> already; remove"):
        load_tokenizer(str(bases["full"]), ("</s>",))
    with pytest.raises(ValueError, match="add_tokens must be different names"):
        ModelSpec("x", add_tokens=("a", "a"))


@every_kind
def test_new_rows_begin_as_the_mean_and_old_ones_stay(kind: str, bases: dict[str, Path]) -> None:
    before = Stack(ModelSpec(str(bases[kind]), dtype="float32"))
    after = Stack(spec(bases[kind]))
    num = 260 if kind == "full" else len(before.head_weight)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before.net, get)().weight, getattr(after.net, get)().weight
        assert new.shape == (num, 32)
        kept = [i for i in range(len(old)) if i not in IDS[kind]]
        assert torch.equal(new[kept], old[kept])
        for row in new[IDS[kind]]:
            torch.testing.assert_close(row, old.mean(0))
    assert after.net.config.vocab_size == num
    assert before.identity != after.identity


def trained(stack: Stack, lora: LoRA | None) -> dict[str, Any]:
    """One step's gradient of a chat's likelihood, by the names of the parameters."""
    parameters = stack.add_adapter(lora, seed=1)
    # adapters that do something, so that gradients pass through them
    for name, parameter in parameters.items():
        if "lora_B" in name:
            torch.manual_seed(len(name))
            parameter.data.normal_(0, 0.05)
    group = SFT(loss_on="all").group(Chat("c", CHAT), ChatML(), stack.tokenizer)
    batch = pack([group])
    values = stack.output.logprobs(stack.hidden(batch), batch.target)
    (-values.mean()).backward()
    return parameters


@every_kind
def test_their_gradient_is_that_of_the_whole_matrix(kind: str, bases: dict[str, Path]) -> None:
    """Beside the slow reference: every weight of the same net trains, through transformers."""
    stack = Stack(spec(bases[kind]))
    parameters = trained(stack, LoRA(r=2, dropout=0.0))
    rows = {n.split(".")[-3]: p for n, p in parameters.items() if "token_adapter" in n}
    assert set(rows) == ({"embed_tokens"} if kind == "slots" else {"embed_tokens", "lm_head"})

    from bezoar.model.merge import merged_net

    net = merged_net(stack)
    net.set_attn_implementation("eager")
    tokens = ChatML().render(CHAT, stack.tokenizer).tokens
    group = SFT(loss_on="all").group(Chat("c", CHAT), ChatML(), stack.tokenizer)
    ids = [*group.prompt, *group.completions[0].tokens]
    assert ids == tokens
    logs = net(torch.tensor([ids])).logits[0].log_softmax(-1)
    first = len(group.prompt)
    flags = group.completions[0].trained
    picked = [logs[first + i - 1, ids[first + i]] for i, flag in enumerate(flags) if flag]
    (-torch.stack(picked).mean()).backward()
    full = {
        "embed_tokens": net.get_input_embeddings().weight.grad,
        "lm_head": net.get_output_embeddings().weight.grad,
    }
    for name, parameter in rows.items():
        assert parameter.grad is not None
        expected = full[name][IDS[kind]]
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_reference_has_the_rows_below(bases: dict[str, Path]) -> None:
    stack = Stack(spec(bases["full"]))
    tokens = ChatML().render(CHAT, stack.tokenizer).tokens
    batch = pack([answer(tokens[:1], tokens[1:])])

    def logprobs() -> torch.Tensor:
        with torch.no_grad():
            return stack.output.logprobs(stack.hidden(batch), batch.target)

    before = logprobs()
    parameters = stack.add_adapter(LoRA(r=2, dropout=0.0), seed=1)
    assert torch.equal(logprobs(), before)
    for name, parameter in parameters.items():
        if "token_adapter" in name:
            parameter.data.normal_(0, 1.0)
    moved = logprobs()
    assert not torch.allclose(moved, before, atol=0.1)
    with stack.disable_adapter():
        assert torch.equal(logprobs(), before)
    assert torch.equal(logprobs(), moved)
    # a reference that is read between the forward and the backward pass changes no gradient
    grads = []
    for between in (False, True):
        values = stack.output.logprobs(stack.hidden(batch), batch.target)
        if between:
            with stack.disable_adapter():
                logprobs()
        grads.append(torch.autograd.grad(values.sum(), list(parameters.values())))
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


RECIPE = """
name: small
template: {{kind: chatml}}
models: {{base: {{path: model, dtype: float32, add_tokens: ["<|im_start|>", "<|im_end|>"]}}}}
stages:
  rows: {{kind: jsonl, path: rows.jsonl}}
  one: &sft
    {{kind: train, model: base, rows: rows, objective: {{kind: sft}}, lr: 0.02, max_steps: 3, validation: 0,
     adapter: {{r: 4, alpha: 8}}}}
  two: {{<<: *sft, model: one, adapter: {{r: 2, alpha: 16, targets: [q_proj, down_proj]}}}}
  whole: {{<<: *sft, model: base, adapter: null, lr: 0.01}}
"""  # noqa: E501


@pytest.fixture(scope="module", params=["slots", "full"])
def run(
    request: pytest.FixtureRequest, bases: dict[str, Path], tmp_path_factory: Any
) -> Iterator[tuple[str, Path]]:
    """A finished run in the current folder."""
    folder, before = tmp_path_factory.mktemp("run"), Path.cwd()
    shutil.copytree(bases[request.param], folder / "model")
    rows = [
        [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"it is {i}"}]
        for i in range(8)
    ]
    lines = [json.dumps({"messages": row}) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE.format())
    os.chdir(folder)
    bezoar("run", "recipe.yaml")
    yield request.param, Path("runs/small")
    os.chdir(before)


def logits(net: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net.eval()(torch.tensor([tokens])).logits[0]
    return found


def opened(stage: str) -> Stack:
    recipe, run_dir = find_run(Path("runs/small"))
    return Stack(*run_dir.model(recipe, stage))


@pytest.mark.parametrize("stage", ["two", "whole"])
def test_merged_it_is_the_stack_in_transformers(run: Any, stage: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, _ = run
    bezoar("export", "runs/small", "--model", stage, "--out", str(tmp_path / "merged"))
    stack, tokenizer = opened(stage), AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.convert_tokens_to_ids(list(NEW)) == IDS[kind]
    assert tokenizer.eos_token == "<|im_end|>"
    rows = [{"role": m.role, "content": m.content} for m in CHAT]
    tokens = tokenizer.apply_chat_template(rows, return_dict=False)
    assert tokens == ChatML().render(CHAT, stack.tokenizer).tokens
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    batch = pack([answer(tokens[:1], tokens[1:])])
    with torch.no_grad():
        ours = stack.output.logits(stack.hidden(batch))
    torch.testing.assert_close(logits(net, tokens)[:-1], ours, atol=1e-4, rtol=1e-4)
    # the new rows have been trained
    mean = Stack(spec(Path("model"))).net.get_input_embeddings().weight[IDS[kind]]
    rows_now = net.get_input_embeddings().weight[IDS[kind]]
    assert all(float(change.abs().max()) > 5e-3 for change in rows_now - mean)


def test_as_an_adapter_it_is_the_same_in_peft(run: Any, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, _ = run
    folder = tmp_path / "adapter"
    bezoar("export", "runs/small", "--model", "two", "--out", str(folder), "--adapter")
    stack, tokenizer = opened("two"), AutoTokenizer.from_pretrained(folder)
    tokens = ChatML().render(CHAT, stack.tokenizer).tokens
    rows = [{"role": m.role, "content": m.content} for m in CHAT]
    assert tokenizer.apply_chat_template(rows, return_dict=False) == tokens
    batch = pack([answer(tokens[:1], tokens[1:])])
    with torch.no_grad():
        ours = stack.output.logits(stack.hidden(batch))
    auto = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(auto, tokens)[:-1, :258], ours[:, :258], atol=1e-4, rtol=1e-4)
    net = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
    if kind == "full":
        net.resize_token_embeddings(len(tokenizer))
    net = PeftModel.from_pretrained(net, folder)
    found = logits(net, tokens)
    torch.testing.assert_close(found[:-1], ours, atol=1e-4, rtol=1e-4)
    merged = logits(net.merge_and_unload(), tokens)
    torch.testing.assert_close(merged[:-1], ours, atol=1e-4, rtol=1e-4)
    # bezoar reads it back by itself, tokens and all
    back = find_model(str(folder), dtype="float32")
    assert back.spec is not None
    assert back.spec.add_tokens == NEW
    again = Stack(back.spec, back.adapters)
    with torch.no_grad():
        theirs = again.output.logits(again.hidden(batch))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="name the same tokens in add_tokens of the base"):
        Stack(ModelSpec("model", dtype="float32"), back.adapters)


def test_the_plan_names_the_key_where_a_token_is_missing(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bases["full"], "model")
    row = {"messages": [{"role": m.role, "content": m.content} for m in CHAT]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    tokens = ', add_tokens: ["<|im_start|>", "<|im_end|>"]'
    for listed, fault in (
        (
            "",
            "no token <|im_start|> and no token <|im_end|>; write"
            ' `add_tokens: ["<|im_start|>", "<|im_end|>"]`',
        ),
        (tokens.replace("<|im_start|>", "</s>"), "add_tokens: the tokenizer has </s> already"),
    ):
        text = RECIPE.format().replace(tokens, listed)
        (tmp_path / "recipe.yaml").write_text(text)
        assert fault in refused("run", "recipe.yaml")
