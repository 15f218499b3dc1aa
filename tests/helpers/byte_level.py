"""The inner tokenizer of test models: one token a byte."""

from collections.abc import Sequence
from typing import Any


def byte_level(merges: Sequence[tuple[str, str]] = ()) -> Any:
    """A `tokenizers.Tokenizer`: ids of the bytes, then of `merges` in their order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner
