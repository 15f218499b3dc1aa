"""Which tokens may come next in an answer that is held to a form, by llguidance.

n answers, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from bezoar.model.structured_output import StructuredOutput

# a vocabulary takes half a second to read: by tokenizer, then size and stop tokens
_VOCABULARIES: "WeakKeyDictionary[Any, dict[tuple[int, ...], LLTokenizer]]" = WeakKeyDictionary()


class FormMatcher:
    """Where one answer stands in its form."""

    def __init__(
        self, form: StructuredOutput, tokenizer: Any, stop_tokens: Sequence[int], size: int
    ) -> None:
        self.stop_tokens = list(stop_tokens)
        vocabularies = _VOCABULARIES.setdefault(tokenizer, {})
        if (size, *stop_tokens) not in vocabularies:
            # a head may be wider than the tokenizer: what is beyond it has no text
            most = max(size, len(tokenizer))
            vocabulary = from_tokenizer(tokenizer, n_vocab=most, eos_token=self.stop_tokens)
            vocabularies[size, *stop_tokens] = vocabulary
        vocabulary = vocabularies[size, *stop_tokens]
        grammar = form.grammar(tokenizer.get_added_vocab())
        self.matcher = LLMatcher(vocabulary, grammar, log_level=0)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self.matcher.is_accepting()

    @property
    def closed(self) -> bool:
        """Whether nothing can follow."""
        return self.matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why the form cannot be held, or ""."""
        if self.matcher.is_error() or (self.closed and not self.complete):
            return (self.matcher.get_error() or self.matcher.stop_reason()).strip().split("\n")[0]
        return ""

    def allowed(self, size: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """1 for each token [V] that may come next, a stop token exactly where `complete`."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=size, bitorder="little")
        # said again: to some tokenizers an end token is a word that a text may hold
        allowed[self.stop_tokens] = self.complete
        return allowed

    def append(self, token: int) -> None:
        """Go on behind `token`, which is no stop token."""
        self.matcher.consume_token(token)


def mask_logits(logits: Tensor, matchers: Sequence[tuple[int, FormMatcher]]) -> None:
    """Set logits [n, V] to -inf, in place, where the form of a row allows no such token."""
    if matchers:
        rows = [row for row, _ in matchers]
        allowed = np.stack([matcher.allowed(logits.shape[1]) for _, matcher in matchers])
        banned = torch.from_numpy(allowed == 0).to(logits.device)  # [n, V]
        logits[rows] = logits[rows].masked_fill(banned, -torch.inf)
