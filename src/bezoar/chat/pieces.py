"""What templates share: a chat is a list of pieces of text, and pieces become tokens.

The law of every template: the trained answer starts exactly where the generation prompt ends, and
`parse` undoes `render`. It holds by construction: each piece is tokenised by itself, and the
generation prompt is the same list without the answer. So words that begin with white space can be
split into other tokens than in the whole text tokenised at once; special tokens named in words are
words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import Message, Messages
from bezoar.errors import DataError

LossOn = Literal["answer", "all"]


@dataclass(frozen=True)
class Rendered:
    """Token ids, whether each of them is trained, and the spans (start, end) of the answers."""

    tokens: list[int]
    trained: list[bool]
    answers: list[tuple[int, int]]


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is tokenised by itself.

    `markers` says that special tokens in it are meant as such, `answer` that the model itself would
    write it, `follows_end` that it begins with the end token, which the answer before it has.
    """

    text: str
    markers: bool = False
    answer: bool = False
    follows_end: bool = False

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        tokens = tokenizer.encode(self.text, markers=self.markers)
        return tokens[1:] if self.follows_end else tokens


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the strings that end an answer."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


class PieceTemplate:
    """What the templates share: they turn a chat into a list of pieces."""

    kind: str

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        raise NotImplementedError

    def opening(self) -> list[Piece]:
        """What follows a chat where the model is to answer."""
        raise NotImplementedError

    def prompt_pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        return [*self.pieces(messages, tokenizer), *self.opening()]

    def check(self, tokenizer: Tokenizer) -> None:
        """DataError for a tokenizer that this template cannot be used with."""
        self.end(tokenizer)

    def end(self, tokenizer: Tokenizer) -> int:
        """The token that ends an answer."""
        return tokenizer.eos_id

    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer as well."""
        return ()

    def render(
        self, messages: Messages, tokenizer: Tokenizer, *, loss_on: LossOn = "answer"
    ) -> Rendered:
        """The tokens of a chat, with its answers or ("all") everything marked as trained."""
        self._refuse_tools(messages)
        rendered = self._encode(self.pieces(messages, tokenizer), tokenizer, loss_on)
        if rendered.trained and loss_on == "all":
            # nothing comes before the first token to predict it
            rendered.trained[0] = False
        return rendered

    def prompt(self, messages: Messages, tokenizer: Tokenizer, *, prefill: str = "") -> list[int]:
        """The tokens after which the model writes its answer, or goes on with `prefill`."""
        self._refuse_tools(messages)
        pieces = [*self.prompt_pieces(messages, tokenizer), Piece(prefill)]
        return self._encode(pieces, tokenizer, "answer").tokens

    def parse(self, tokens: Sequence[int], tokenizer: Tokenizer) -> Message:
        """The answer that a model wrote, without what ends it."""
        end, tokens = self.end(tokenizer), list(tokens)
        # what follows the end token is no part of the answer; a model that never learned the token
        # goes on with the next block instead
        if end in tokens:
            return Message("assistant", tokenizer.decode(tokens[: tokens.index(end)]))
        return Message("assistant", cut_at_stop(tokenizer.decode(tokens), self.stops()))

    def _encode(self, pieces: list[Piece], tokenizer: Tokenizer, loss_on: LossOn) -> Rendered:
        rendered = Rendered([], [], [])
        for piece in pieces:
            # piece by piece: the ends of an answer must be ends of tokens, even where the tokenizer
            # would merge across them
            tokens, start = piece.encode(tokenizer), len(rendered.tokens)
            if piece.answer:
                tokens.append(self.end(tokenizer))
                rendered.answers.append((start, start + len(tokens)))
            rendered.tokens.extend(tokens)
            rendered.trained.extend([piece.answer or loss_on == "all"] * len(tokens))
        return rendered

    def _refuse_tools(self, messages: Messages) -> None:
        if any(message.tool_calls for message in messages):
            fault = "a turn holds tool calls, which this template does not write"
            raise DataError(f"template {self.kind}: {fault}; leave such chats out.")
