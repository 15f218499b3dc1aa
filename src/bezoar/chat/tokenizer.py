"""Text to token ids and back, with template markers and a person's words kept apart."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What a template needs. `encode` without `markers` never yields a special token, whatever the
    text says; `special` finds their names; `inner` is the transformers tokenizer or None.

    With `after`, text that has been encoded already, the tokens are those of `text` behind it.
    """

    bos_id: int | None
    eos_id: int
    template: str | None
    inner: Any

    @property
    def special(self) -> re.Pattern[str]: ...

    def encode(self, text: str, *, markers: bool = False, after: str = "") -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str: ...

    @property
    def size(self) -> int: ...


@dataclass
class HubTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol."""

    inner: Any

    def __post_init__(self) -> None:
        self.bos_id: int | None = self.inner.bos_token_id
        self.eos_id: int = self.inner.eos_token_id
        self.template: str | None = self.inner.chat_template

    @cached_property
    def special(self) -> re.Pattern[str]:
        """The names of the special tokens."""
        added = (str(t) for t in self.inner.added_tokens_decoder.values() if t.special)
        return _names([*self.inner.all_special_tokens, *added])

    def encode(self, text: str, *, markers: bool = False, after: str = "") -> list[int]:
        """Ids of `text`; special tokens named in it are recognised only with `markers`."""
        # behind other text no space is put before it, as many tokenizers do where a text begins;
        # where the tokens of the border would be others, it is encoded behind a line or by itself
        for before in (after, "\n") if after and text else ():
            known = self._ids(before, markers)
            ids = self._ids(before + text, markers)
            if ids[: len(known)] == known:
                return ids[len(known) :]
        return self._ids(text, markers)

    def _ids(self, text: str, markers: bool) -> list[int]:
        # templates write the special tokens themselves; one added here would be there twice
        options = {"add_special_tokens": False, "split_special_tokens": not markers}
        return list(self.inner.encode(text, **options))

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str:
        """Text of `tokens`, special tokens written out only with `markers`."""
        text = self._text([*self._anchor, *tokens], markers)
        return text[1:] if self._anchor else text

    @cached_property
    def _anchor(self) -> list[int]:
        """The token of one letter to decode behind, where that is what undoes `encode`."""
        anchor = self._ids("a", False)[-1:]
        inner = [(text, self.encode(text, after="\n")) for text in (" a", "a")]
        alone = all(self._text(ids, False) == text for text, ids in inner)
        behind = all(self._text([*anchor, *ids], False) == f"a{text}" for text, ids in inner)
        # a tokenizer that drops the space before the first word of a text would drop it here
        return anchor if behind and not alone else []

    def _text(self, ids: Sequence[int], markers: bool) -> str:
        options = {"skip_special_tokens": not markers, "clean_up_tokenization_spaces": False}
        return str(self.inner.decode(list(ids), **options))

    @property
    def size(self) -> int:
        """The number of token ids."""
        return len(self.inner)


@dataclass
class ByteTokenizer:
    """A token per byte and a few markers: small, exact, reversible. For tests and toy models."""

    markers: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    template: str | None = None
    inner: None = None

    def __post_init__(self) -> None:
        self.bos_id: int | None = 257
        self.eos_id: int = 258

    @property
    def special(self) -> re.Pattern[str]:
        """The markers."""
        return _names(self.markers)

    def encode(self, text: str, *, markers: bool = False, after: str = "") -> list[int]:
        """UTF-8 bytes, markers as ids from 256 on; a byte is the same behind any other."""
        for number, marker in enumerate(self.markers if markers else (), 256):
            if marker in text:
                left, right = text.split(marker, 1)
                return [*self.encode(left, markers=True), number, *self.encode(right, markers=True)]
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str:
        """The inverse of `encode`."""
        names = [name.encode() if markers else b"" for name in self.markers]
        parts = [bytes([token]) if token < 256 else names[token - 256] for token in tokens]
        return b"".join(parts).decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """Bytes and markers."""
        return 256 + len(self.markers)


def _names(tokens: Sequence[str]) -> re.Pattern[str]:
    """Finds any of `tokens`, the longest first."""
    ordered = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
