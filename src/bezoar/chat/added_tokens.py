"""Tokens that a recipe adds to a tokenizer: in slots that it keeps free, else behind them.

Imports no torch.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bezoar.errors import DataError

# names of slots that were never trained: Llama 3, Gemma, Phi, Mistral
RESERVED = re.compile(
    r"<\|?(reserved(_special)?(_token)?|unused|dummy|placeholder|special)_?\d+\|?>"
    r"|\[(control|unused)_?\d+\]",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?!(?:pad|unk|bos|eos|mask|sep|cls)>)[a-z][\w-]+>", re.IGNORECASE)
_KEY = "add_tokens"


def with_tokens(inner: Any, names: Sequence[str], *, num_rows: int | None) -> Any:
    """A transformers tokenizer with `names` as tokens; `num_rows` embeddings are there.

    Tags such as `<tool_call>` are words, which stay in the text of an answer and are told apart in
    what people write too; all other names are special tokens.
    The first reserved slots, in the order of their ids, take the new names; tokens for which there
    is none follow the last id. DataError for a name that is a token already.
    """
    vocabulary: dict[str, int] = inner.get_vocab()
    if known := [name for name in names if name in vocabulary]:
        fault = f"the tokenizer has {' and '.join(known)} already"
        raise DataError(f"{_KEY}: {fault}; remove the name.")
    most = len(vocabulary) if num_rows is None else num_rows
    slots = sorted((i, slot) for slot, i in vocabulary.items() if RESERVED.fullmatch(slot))
    renamed = dict(zip([slot for i, slot in slots if i < most], names, strict=False))
    made = _renamed(inner, renamed) if renamed else inner
    from tokenizers import AddedToken

    # the renamed ones too, for a slot may have been one of the ordinary vocabulary
    for name in names:
        special = not _TAG.fullmatch(name)
        added = AddedToken(name, special=special, normalized=False)
        made.add_tokens([added], special_tokens=special)
    return made


def _renamed(inner: Any, names: dict[str, str]) -> Any:
    """The tokenizer with other names of tokens, wherever its files write them."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as work:
        inner.save_pretrained(work)
        for file in Path(work).glob("*token*.json"):
            text = file.read_text("utf-8")
            for old, new in names.items():
                text = text.replace(json.dumps(old), json.dumps(new))
            value = json.loads(text)
            _make_words(value, [new for new in names.values() if _TAG.fullmatch(new)])
            file.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
        made = AutoTokenizer.from_pretrained(work, trust_remote_code=False)
    made.name_or_path = inner.name_or_path
    return made


def _make_words(value: Any, names: Sequence[str]) -> None:
    """Take `names` out of the special tokens of a tokenizer's file, where slots are that."""
    decoder = value.get("added_tokens_decoder", {})
    for token in [*value.get("added_tokens", []), *decoder.values()]:
        token["special"] = token["special"] and token["content"] not in names
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(value.get(key), list):
            value[key] = [name for name in value[key] if name not in names]
