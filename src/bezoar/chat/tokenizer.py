"""Text to token ids and back, with template markers and a person's words kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What a template needs. `encode` without `markers` never yields a special token, whatever the
    text says; `inner` is the transformers tokenizer or None."""

    bos_id: int | None
    eos_id: int
    template: str | None
    inner: Any

    def encode(self, text: str, *, markers: bool = False) -> list[int]: ...

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

    def encode(self, text: str, *, markers: bool = False) -> list[int]:
        """Ids of `text`; special tokens named in it are recognised only with `markers`."""
        # templates write the special tokens themselves; one added here would be there twice
        options = {"add_special_tokens": False, "split_special_tokens": not markers}
        return list(self.inner.encode(text, **options))

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str:
        """Text of `tokens`, special tokens written out only with `markers`."""
        options = {"skip_special_tokens": not markers, "clean_up_tokenization_spaces": False}
        return str(self.inner.decode(list(tokens), **options))

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

    def encode(self, text: str, *, markers: bool = False) -> list[int]:
        """UTF-8 bytes, markers as ids from 256 on."""
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
