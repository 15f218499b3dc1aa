"""Text to token ids and back, with template markers and a person's words kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

KNOWN = 256
"""Texts whose ids are kept at hand."""


class Tokenizer(Protocol):
    """What a renderer needs. `encode` without `markers` never yields a special token, whatever the
    text says."""

    bos_id: int | None
    eos_id: int
    template: str | None

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
        # rendering a chat, its prompts and its proof reads the same words several times
        self._known: dict[tuple[str, bool], list[int]] = {}

    def encode(self, text: str, *, markers: bool = False) -> list[int]:
        """Ids of `text`; special tokens named in it are recognised only with `markers`."""
        found = self._known.get((text, markers))
        if found is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            found = self._known[text, markers] = self.inner.encode(
                text, add_special_tokens=False, split_special_tokens=not markers
            )
        return list(found)

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str:
        """Text of `tokens`, special tokens written out only with `markers`."""
        return str(
            self.inner.decode(
                list(tokens), skip_special_tokens=not markers, clean_up_tokenization_spaces=False
            )
        )

    @property
    def size(self) -> int:
        """The number of token ids."""
        return len(self.inner)


@dataclass
class ByteTokenizer:
    """One token a byte and a few markers: small, exact, reversible. For tests and toy models."""

    markers: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    template: str | None = None

    def __post_init__(self) -> None:
        self.bos_id: int | None = 257
        self.eos_id: int = 258

    def encode(self, text: str, *, markers: bool = False) -> list[int]:
        """UTF-8 bytes, markers as ids from 256 on."""
        if markers:
            for index, marker in enumerate(self.markers):
                if marker in text:
                    left, right = text.split(marker, 1)
                    return [
                        *self.encode(left, markers=True),
                        256 + index,
                        *self.encode(right, markers=True),
                    ]
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int], *, markers: bool = False) -> str:
        """The inverse of `encode`."""
        parts = [
            bytes([t]) if t < 256 else self.markers[t - 256].encode() if markers else b""
            for t in tokens
        ]
        return b"".join(parts).decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """Bytes and markers."""
        return 256 + len(self.markers)
