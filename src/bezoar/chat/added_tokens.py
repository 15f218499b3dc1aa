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

RESERVED = re.compile(
    r"<\|?(reserved(_special)?(_token)?|unused|dummy|placeholder|special)_?\d+\|?>"
    r"|\[(control|unused)_?\d+\]",
    re.IGNORECASE,
)
"""Names of slots that were never trained: Llama 3, Gemma, Phi, Mistral."""
_KEY = "add_tokens"


def with_tokens(inner: Any, names: Sequence[str], *, num_rows: int | None) -> Any:
    """A transformers tokenizer with `names` as special tokens; `num_rows` embeddings are there.

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
    if renamed:
        inner = _renamed(inner, renamed)
    if rest := names[len(renamed) :]:
        from tokenizers import AddedToken

        added = [AddedToken(name, special=True, normalized=False) for name in rest]
        inner.add_tokens(added, special_tokens=True)
    return inner


def _renamed(inner: Any, names: dict[str, str]) -> Any:
    """The tokenizer with other names of tokens, wherever its files write them."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as work:
        inner.save_pretrained(work)
        for file in Path(work).glob("*token*.json"):
            values = json.loads(file.read_text("utf-8"))
            file.write_text(json.dumps(_replaced(values, names), ensure_ascii=False), "utf-8")
        made = AutoTokenizer.from_pretrained(work, trust_remote_code=False)
    made.name_or_path = inner.name_or_path
    # as tokens, for a slot may have been one of the ordinary vocabulary
    from tokenizers import AddedToken

    added = [AddedToken(name, special=True, normalized=False) for name in names.values()]
    made.add_tokens(added, special_tokens=True)
    return made


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_replaced(inner, names) for inner in value]
    if isinstance(value, dict):
        return {names.get(key, key): _replaced(inner, names) for key, inner in value.items()}
    return value
