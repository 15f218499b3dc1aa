"""Tokenizers for the tests of chat/: bytes, a tiny one of transformers, and trained ones where they
are at hand."""

import atexit
import json
import os
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.tokenizer import ByteTokenizer, HubTokenizer, Tokenizer
from tests.helpers.byte_level import byte_level

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] +"
    " '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n'"
    " }}{% endif %}"
)


@cache
def tiny(template: str = CHATML_TEMPLATE) -> HubTokenizer:
    """A transformers tokenizer of bytes with ChatML's markers and a chat template."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    markers = {
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<|im_start|>"],
    }
    wrapped: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **markers)
    wrapped.chat_template = template
    return HubTokenizer(wrapped)


def stories() -> HubTokenizer:
    """The sentencepiece tokenizer of a small trained Llama."""
    if not os.environ.get("BEZOAR_DATA"):
        pytest.skip("BEZOAR_DATA is not set, so the stories260K tokenizer is not here")
    return _from(Path(os.environ["BEZOAR_DATA"]) / "models" / "stories260K")


def smollm() -> HubTokenizer:
    """The tokenizer of the demo's model, where it was unpacked before."""
    cache_dir = Path(os.environ.get("BEZOAR_CACHE") or Path.home() / ".cache" / "bezoar")
    folder = cache_dir / "models" / "smollm2-135m-instruct"
    if not (folder / "tokenizer.json").exists():
        pytest.skip("smollm2-135m-instruct has not been unpacked yet; a run of the demo does it")
    return _from(folder)


@cache
def spaced(*, lossy: bool = False) -> HubTokenizer:
    """A SentencePiece file alone, as OpenLLaMA comes: byte fallback and pieces of several spaces;
    `lossy` has its normaliser, which joins spaces and rewrites letters."""
    pytest.importorskip("transformers")
    from bezoar.model.tokenizer import load_tokenizer

    return load_tokenizer(str(pieces_folder(lossy=lossy)))


@cache
def pieces_folder(*, lossy: bool = False) -> Path:
    """The folder of `spaced`."""
    import sentencepiece

    words = ["the", "river", "stone", "ship", "write", "answer", "response", "once", "upon"]
    rng = random.Random(1)
    lines = [
        "    " * (i % 5 == 0) + " ".join(rng.choices(words, k=7)).replace(" ", "  ", i % 7)
        for i in range(300)
    ]
    folder = Path(tempfile.mkdtemp(prefix="bezoar-pieces-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rules = {} if lossy else {"normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=lossy,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
        **rules,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 320}))
    (folder / "model.safetensors").touch()
    return folder


@cache
def _from(folder: Path) -> HubTokenizer:
    return HubTokenizer(pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder))


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that no text of a person may become."""
    if isinstance(tokenizer, ByteTokenizer):
        return set(range(256, tokenizer.size))
    return set(tokenizer.inner.all_special_ids)  # type: ignore[attr-defined]
