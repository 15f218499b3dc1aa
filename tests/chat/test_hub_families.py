"""Chat templates that behave as those of Gemma, Phi-3, Qwen2.5 and Qwen3; written for the tests."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import HubTemplate
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Chat, Comparison, Message, Messages
from bezoar.errors import DataError
from bezoar.model.chat_files import save_chat_files
from bezoar.train.label_check import check_labels
from bezoar.train.objectives import DPO, SFT

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ '<start_of_turn>' + ('model' if"
    " m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = '' %}{% set turns = messages %}{% if messages[0].role =="
    " 'system' %}{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% endif %}{% for m in turns %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else"
    " m.role) + '\n' + (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN25 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Q.<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content +"
    " '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set"
    " ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set words ="
    " m.content %}{% set thought = '' %}{% if m.role == 'assistant' and '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% set words ="
    " words.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ words + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking"
    " is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# template, special tokens, eos_token, end of an answer
FAMILIES: dict[str, tuple[str, list[str], str, str]] = {
    "gemma": (GEMMA, ["<start_of_turn>", "<end_of_turn>"], "<eos>", "<end_of_turn>"),
    "gemma3": (GEMMA3, ["<start_of_turn>", "<end_of_turn>"], "<eos>", "<end_of_turn>"),
    "phi3": (
        PHI3,
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "<|endoftext|>",
        "<|end|>",
    ),
    "qwen2.5": (QWEN25, ["<|im_start|>", "<|im_end|>"], "<|endoftext|>", "<|im_end|>"),
    "qwen3": (QWEN3, ["<|im_start|>"], "<|im_end|>", "<|im_end|>"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
HUB = HubTemplate()


def tokenizer_of(family: str) -> HubTokenizer:
    """Bytes and the family's special tokens; Phi-3's take the white space behind them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template, special, eos, _ = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    takes = family == "phi3"
    added = [AddedToken(name, special=True, normalized=False, rstrip=takes) for name in special]
    inner.add_special_tokens([*added, "<bos>"])
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token=eos)
    wrapped.chat_template = template
    return HubTokenizer(wrapped)


def turns(*texts: str, system: str = "") -> Messages:
    start = (Message("system", system),) if system else ()
    roles = ("user", "assistant")
    return (*start, *(Message(roles[i % 2], text) for i, text in enumerate(texts)))  # type: ignore[arg-type]


def text_of(tokenizer: HubTokenizer, messages: Messages, *, opening: bool) -> str:
    rows = [{"role": m.role, "content": m.content} for m in messages]
    return apply_template(tokenizer.inner, rows, add_generation_prompt=opening)


def whole(tokenizer: HubTokenizer, messages: Messages, *, opening: bool) -> list[int]:
    text = text_of(tokenizer, messages, opening=opening)
    return list(tokenizer.inner.encode(text, add_special_tokens=False))


@every_family
def test_an_answer_ends_with_what_the_template_writes(family: str) -> None:
    tokenizer = tokenizer_of(family)
    end = tokenizer.inner.convert_tokens_to_ids(FAMILIES[family][3])
    assert HUB.end(tokenizer) == end
    rendered = HUB.render(turns("Hi", "Yo"), tokenizer)
    start, stop = rendered.answers[-1]
    assert rendered.tokens[start:stop] == [*tokenizer.encode("Yo"), end]
    assert rendered.trained == [start <= i < stop for i in range(len(rendered.tokens))]
    assert HUB.parse(rendered.tokens[start:stop], tokenizer) == Message("assistant", "Yo")


@every_family
def test_the_tokens_are_those_of_transformers(family: str) -> None:
    tokenizer = tokenizer_of(family)
    chats = [turns("Hi", "Yo"), turns(" a \n", "b\n\nc"), turns("", "naïve 😀")]
    chats += [turns("Hi", "Yo", "Why?", "So."), turns("1", "2", "3", "4", "5", "6")]
    if family != "gemma":
        chats += [turns("Hi", "Yo", system="S"), turns("Hi", "Yo", "Why?", "So.", system="S x")]
    for messages in chats:
        assert HUB.render(messages, tokenizer).tokens == whole(tokenizer, messages, opening=False)
        for index, message in enumerate(messages):
            if message.role == "assistant":
                prompt = HUB.prompt(messages[:index], tokenizer)
                assert prompt == whole(tokenizer, messages[:index], opening=True)
                rendered = HUB.render(messages[: index + 1], tokenizer)
                assert rendered.tokens[: rendered.answers[-1][0]] == prompt


@every_family
def test_labels_are_proved_with_every_family(family: str) -> None:
    tokenizer = tokenizer_of(family)
    pair = Comparison("p", turns("Hi", "Yo", "Why?"), " So. ", "No")
    single, double = Chat("c", turns("Hi", "Yo")), Chat("d", turns("Hi", "Yo", "Why?", "So."))
    how: dict[str, Any] = {"max_length": 1000, "too_long": "drop"}
    assert len(check_labels([pair], DPO(), HUB, tokenizer, **how).rows) == 1
    assert len(check_labels([single], SFT(), HUB, tokenizer, **how).rows) == 1
    assert len(check_labels([double], SFT("last"), HUB, tokenizer, **how).rows) == 1
    if family == "qwen3":
        with pytest.raises(DataError, match=r"row d: .* only that can train; set loss_on: last"):
            check_labels([double], SFT(), HUB, tokenizer, **how)
    else:
        [example] = check_labels([double], SFT(), HUB, tokenizer, **how).rows
        assert sum(example.group.completions[0].trained) == len("Yo") + len("So.") + 2


def test_gemma_refuses_a_system_message_in_one_sentence_and_trims_answers() -> None:
    tokenizer = tokenizer_of("gemma")
    with pytest.raises(DataError, match=r"refuses a conversation \(no system role\); use chatml"):
        HUB.render(turns("Hi", "Yo", system="S"), tokenizer)
    rendered = HUB.render(turns("Hi", "  Yo \n"), tokenizer)
    start, stop = rendered.answers[0]
    assert tokenizer.decode(rendered.tokens[start:stop]) == "Yo"


def test_qwen3_opens_answers_with_an_empty_think_block_and_drops_it_from_earlier_turns() -> None:
    tokenizer = tokenizer_of("qwen3")
    block = "<think>\n\n</think>\n\n"
    prompt = HUB.prompt(turns("Hi", "Yo", "Why?"), tokenizer)
    text = tokenizer.decode(prompt, markers=True)
    assert text.count(block) == 1
    assert text.endswith(f"<|im_start|>assistant\n{block}")
    assert "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nWhy?" in text
    # what an earlier answer thought is dropped, as the template drops it
    thought = turns("Hi", "<think>\nhm\n</think>\n\nYo", "Why?")
    assert HUB.prompt(thought, tokenizer) == prompt
    with pytest.raises(
        DataError, match="the answer thinks, and the generation prompt has thinking"
    ):
        HUB.render(thought[:2], tokenizer)


@every_family
def test_what_is_exported_writes_chats_as_training_did(family: str, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    tokenizer = tokenizer_of(family)
    net = SimpleNamespace(generation_config=GenerationConfig())
    stack: Any = SimpleNamespace(tokenizer=tokenizer, net=net)
    save_chat_files(stack, HUB, tmp_path)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == FAMILIES[family][3]
