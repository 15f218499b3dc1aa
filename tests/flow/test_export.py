"""`bezoar export`: a stack of stages as one folder for other tools, equal to the stack and with the
template that was trained, or not written."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import (
    ChatML,
    HubTemplate,
    OpenBezoarTemplate,
    Template,
    render_completions,
)
from bezoar.chat.types import Message, Messages
from bezoar.errors import RecipeError, TrainingError
from bezoar.flow import export
from bezoar.flow.inspect_run import find_run
from bezoar.model.chat_files import check_chats, save_chat_files
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.model.score import score
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.tokenizer import load_tokenizer
from tests.helpers.command import bezoar

RECIPE = """
name: small
template: {template}
models: {{base: {{path: model, dtype: float32}}}}
stages:
  rows: {{kind: jsonl, path: rows.jsonl}}
  one: &sft
    {{kind: train, model: base, rows: rows, objective: {{kind: sft}}, lr: 0.02, max_steps: 2, validation: 0,
     adapter: {{r: 4, alpha: 8}}}}
  two: {{<<: *sft, model: one, adapter: {{r: 2, alpha: 16, targets: [q_proj, down_proj]}}}}
  three: {{<<: *sft, model: two}}
  whole: {{<<: *sft, model: base, adapter: null, lr: 0.001}}
"""  # noqa: E501
SYSTEM = "Be 'brief' {{ now }}."


def set_up(folder: Path, tiny_model: Path, template: str, **tokenizer: Any) -> None:
    """A model whose own template and end token are others than the recipe's, rows, a recipe."""
    shutil.copytree(tiny_model, folder / "model")
    settings = folder / "model" / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps({**values, "eos_token": "</s>", **tokenizer}))
    (folder / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}\n{% endfor %}\n"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}\n"
    )
    lines = [json.dumps({"messages": as_rows(chat(number))}) for number in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE.format(template=template))


def chat(number: int) -> Messages:
    """Every chat is another: of one or two turns, with or without a system message."""
    words = f"say {number}" + (" naïve 😀  " if number % 3 else "")
    start = (Message("system", f"S{number}"),) if number % 4 == 1 else ()
    earlier = (Message("user", f" {number}\n"), Message("assistant", "Yes.")) if number % 2 else ()
    return (*start, *earlier, Message("user", words), Message("assistant", f"it is {words}"))


def as_rows(messages: Messages) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run in the current folder."""
    folder, before, umask = tmp_path_factory.mktemp("export"), Path.cwd(), os.umask(0o022)
    set_up(folder, tiny_model, f'{{kind: chatml, system: "{SYSTEM}"}}')
    os.chdir(folder)
    bezoar("run", "recipe.yaml")
    yield Path("runs/small")
    os.chdir(before)
    os.umask(umask)


def ours(stack: Stack, template: Template) -> torch.Tensor:
    """The log-probability of the last answer of 50 chats, its end token included."""
    found = []
    for number in range(50):
        messages = chat(number)
        prompt, answers = render_completions(
            messages[:-1], [messages[-1]], template, stack.tokenizer
        )
        completion = Completion(answers[0], [True] * len(answers[0]))
        [[scored]] = score(stack, [PromptGroup(prompt, [completion])])
        found.append(scored.logprobs.sum())
    return torch.stack(found)


@torch.no_grad()
def theirs(net: Any, folder: Path, num: int = 50) -> torch.Tensor:
    """The same of the first chats through transformers, with nothing of bezoar."""
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for number in range(num):
        rows = as_rows(chat(number))
        prompt = tokenizer.apply_chat_template(
            rows[:-1], add_generation_prompt=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template(
            rows, return_dict=True, return_assistant_tokens_mask=True
        )
        assert whole["input_ids"][: len(prompt)] == prompt
        ids = torch.tensor(whole["input_ids"])
        marks = torch.tensor(whole["assistant_masks"]).bool()
        marks[: len(prompt)] = False
        logprobs = net(input_ids=ids[None]).logits[0].float().log_softmax(-1)
        each = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
        found.append(each[marks[1:]].sum())
    return torch.stack(found)


def test_other_tools_compute_what_ours_do(run: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    recipe, run_dir = find_run(run)
    expected = ours(Stack(*run_dir.model(recipe, "three")), recipe.template)
    told = bezoar("export", str(run), "-m", "three", "--out", "merged")
    assert "merged: merged; against the stack: mean KL" in told
    assert "same top token 100.00%" in told
    merged = AutoModelForCausalLM.from_pretrained("merged").eval()
    assert torch.allclose(theirs(merged, Path("merged")), expected, atol=1e-4)
    # the exported adapter, and that of the run, each alone on the base that it names
    bezoar("export", str(run), "-m", "three", "--adapter", "--out", "one")
    for folder, num in ((Path("one"), 50), (run_dir.output_dir("three") / "adapter", 9)):
        net = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
        assert torch.allclose(theirs(net, folder, num), expected[:num], atol=1e-4), folder
    base = json.loads(Path("one/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(Path("model").absolute())
    # a stage that trained all weights
    whole = run_dir.output_dir("whole") / "model"
    expected = ours(Stack(*run_dir.model(recipe, "whole")), recipe.template)
    full = AutoModelForCausalLM.from_pretrained(whole).eval()
    assert torch.allclose(theirs(full, whole, 9), expected[:9], atol=1e-4)


@pytest.mark.parametrize("template", [OpenBezoarTemplate(), HubTemplate()], ids=lambda t: t.kind)
def test_every_template_leaves_with_its_tokens_and_its_end(
    template: Template, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    set_up(tmp_path, tiny_model, "{kind: chatml}")
    folder = tmp_path / "model"
    stack = Stack(ModelSpec(str(folder), dtype="float32"))
    expected = ours(stack, template)
    save_chat_files(stack, template, folder)
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.allclose(theirs(net, folder), expected, atol=1e-4)
    assert "{% generation %}" in (folder / "chat_template.jinja").read_text()
    end = template.end(stack.tokenizer)
    for name in ("generation_config.json", "config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == end
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == stack.tokenizer.decode([end], markers=True)


def test_what_leaves_has_template_stop_token_card_and_can_be_read(run: Path) -> None:
    recipe, run_dir = find_run(run)
    for name, flag in (("model-out", "--no-check"), ("adapter-out", "--adapter")):
        told = bezoar("export", str(run), "-m", "two", flag, "--out", name)
        assert "transformers writes chats as training did" in told
    folders = [Path("model-out"), Path("adapter-out"), run_dir.output_dir("whole") / "model"]
    folders += [run_dir.output_dir(name) / "adapter" for name in ("one", "two", "three")]
    tokenizer = load_tokenizer("model")
    end = recipe.template.end(tokenizer)
    for folder in folders:
        assert "{% generation %}" in (folder / "chat_template.jinja").read_text()
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == end
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["eos_token"] == tokenizer.decode([end], markers=True)
        assert "from_pretrained('.')" in (folder / "README.md").read_text()
        if (folder / "config.json").is_file():
            assert json.loads((folder / "config.json").read_text())["eos_token_id"] == end
    files = [path for path in (*run.rglob("*"), *folders[0].rglob("*")) if path.is_file()]
    private = [path for path in files if path.stat().st_mode & 0o044 != 0o044]
    assert [path for path in private if "journal" not in path.name] == []


def test_a_merge_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "other")
    (tmp_path / "there").mkdir()
    for model, where, sentence in (
        ("two", str(tmp_path / "there"), "there already"),
        ("base", out, "base model"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            bezoar("export", str(run), "-m", model, "--out", where)
    with pytest.raises(RecipeError, match="trained all weights and has no adapter"):
        bezoar("export", str(run), "-m", "whole", "--adapter", "--out", out)
    monkeypatch.setattr(export, "MAX_MEAN_KL", -1.0)
    with pytest.raises(TrainingError, match="other: not written"):
        bezoar("export", str(run), "-m", "two", "--out", out)
    assert not Path(out).exists()


def test_a_template_that_transformers_writes_otherwise_is_not_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers takes the white space before such a token away
    set_up(tmp_path, tiny_model, "{kind: chatml}")
    file = tmp_path / "model" / "tokenizer.json"
    values = json.loads(file.read_text())
    for token in values["added_tokens"]:
        token["lstrip"] = token["content"] == "<|im_end|>"
    file.write_text(json.dumps(values))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().partition("  three:")[0])
    monkeypatch.chdir(tmp_path)
    told = bezoar("run", "recipe.yaml")
    difference = r"token \d+, behind .*, is '<|im_end|>' \(259, not trained\), in training ' '"
    assert "one: adapter has no chat template for other tools: transformers writes a chat" in told
    for flag in ("--no-check", "--adapter"):
        with pytest.raises(TrainingError, match=f"out: not written, for .*{difference}"):
            bezoar("export", "runs/small", "-m", "two", flag, "--out", "out")
        assert not Path("out").exists()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_another_template_is_told_by_its_first_difference(tiny_model: Path, tmp_path: Path) -> None:
    set_up(tmp_path, tiny_model, "{kind: chatml}", eos_token="<|im_end|>")
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    inner = tokenizer.inner
    inner.chat_template = ChatML("Never trained.").jinja(tokenizer)
    inner.save_pretrained(tmp_path / "other")
    with pytest.raises(TrainingError, match=r"token 1, behind '<\|im_start\|>', is 's' .* 'u'"):
        check_chats(tmp_path / "other", ChatML(), tokenizer)
    inner.chat_template = ChatML().jinja(tokenizer).replace("{% generation %}", "")
    inner.chat_template = inner.chat_template.replace("{% endgeneration %}", "")
    inner.save_pretrained(tmp_path / "unmarked")
    with pytest.raises(
        TrainingError, match=r"\(40, not trained\), in training 'I' \(40, trained\)"
    ):
        check_chats(tmp_path / "unmarked", ChatML(), tokenizer)
