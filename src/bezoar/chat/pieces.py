"""What templates share: a chat is a list of pieces of text, and pieces become tokens.

The law of every template: the trained answer starts exactly where the generation prompt ends, and
`parse` undoes `render`. It holds by construction: what stands between two answers is tokenised at
once, each answer behind it, and the generation prompt is the same list without the answer. These
are the tokens of the whole text tokenised at once, as other tools do it, of every template and for
byte-level and SentencePiece tokenizers alike, but for two cases: special tokens named in words are
words, because nobody may write a turn that is none; and an answer never shares a token with the
prompt before it, because the model writes it behind the prompt's tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal

from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.tool_calls import write_answer
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
    """A stretch of text. `markers` says that special tokens in it are meant as such, `answer` that
    the model itself would write it."""

    text: str
    markers: bool = False
    answer: bool = False


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[bool, list[Piece]]]:
    """(whether it is an answer, its pieces): each answer by itself, what is between two as one."""
    for is_answer, group in groupby(pieces, lambda piece: piece.answer):
        run = list(group)
        yield from ((True, [piece]) for piece in run) if is_answer else [(False, run)]


def _encode_run(run: Sequence[Piece], tokenizer: Tokenizer, *, after: str) -> list[int]:
    """The tokens of the pieces between two answers; `after` is the end token before them."""
    if not any(tokenizer.special.search(piece.text) for piece in run if not piece.markers):
        return tokenizer.encode("".join(piece.text for piece in run), markers=True, after=after)
    # words that name a special token must stay words: the text between those that are meant is
    # tokenised by itself, with the words in it
    tokens, text = list[int](), ""
    for piece in run:
        start = 0
        for found in tokenizer.special.finditer(piece.text) if piece.markers else ():
            tokens += _encode_words(text + piece.text[start : found.start()], tokenizer, after)
            after, text, start = found[0], "", found.end()
            tokens += tokenizer.encode(after, markers=True)
        text += piece.text[start:]
    return tokens + _encode_words(text, tokenizer, after)


def _encode_words(text: str, tokenizer: Tokenizer, after: str) -> list[int]:
    """The tokens of text behind `after`, a special token and more or "", whatever special tokens
    the text names."""
    if not tokenizer.special.search(text):
        return tokenizer.encode(text, markers=True, after=after)
    # a special token may begin a text anew or not, or take the white space behind it to itself
    bare, tail = tokenizer.encode("a", markers=True, after=after), after
    if found := tokenizer.special.match(after):
        tail = after[found.end() :] or "\n"
        if after == found[0] and tokenizer.encode("\na", markers=True, after=after) == bare:
            text = text.lstrip()
    return tokenizer.encode(text, after="" if bare == tokenizer.encode("a") else tail)


def _encode_answer(text: str, tokenizer: Tokenizer, after: str) -> list[int]:
    """The tokens of an answer, with the white space that it begins with: no special token before it
    takes that."""
    if text[:1].isspace() and tokenizer.special.match(after):
        return tokenizer.encode(text, after=tokenizer.special.sub("", after))
    return _encode_words(text, tokenizer, after)


def _last_words(run: Sequence[Piece], tokenizer: Tokenizer) -> str:
    """What stands in a run from its last special token on."""
    text = "".join(piece.text for piece in run[-1:])
    last = [found.start() for found in tokenizer.special.finditer(text)][-1:]
    return text[last[0] :] if last else text


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the strings that end an answer."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


class PieceTemplate:
    """What the templates share: they turn a chat into a list of pieces."""

    kind: str
    takes_tools: ClassVar[bool] = False

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

    def jinja(self, tokenizer: Tokenizer) -> str:
        """The template in the form that other tools read; DataError if it has none."""
        fault = "it has no Jinja form, so other tools could not write its prompts"
        raise DataError(f"template {self.kind}: {fault}; give its class the method jinja.")

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
        pieces = self.prompt_pieces(messages, tokenizer)
        prompt = self._encode(pieces, tokenizer, "answer").tokens
        return prompt + _encode_answer(prefill, tokenizer, _last_words(pieces, tokenizer))

    def response_template(self, tokenizer: Tokenizer) -> dict[str, Any] | None:
        """How transformers reads an answer (`tokenizer.response_template`), where it has parts."""
        return None

    def answer(self, messages: Messages, said: Message | str, tokenizer: Tokenizer) -> list[int]:
        """The tokens of an answer to `messages`, without the one that ends it."""
        text = said if isinstance(said, str) else write_answer(said)
        pieces = self.prompt_pieces(messages, tokenizer)
        return _encode_answer(text, tokenizer, _last_words(pieces, tokenizer))

    def parse(self, tokens: Sequence[int], tokenizer: Tokenizer) -> Message:
        """The answer that a model wrote, without what ends it."""
        end, tokens = self.end(tokenizer), list(tokens)
        # what follows the end token is no part of the answer; a model that never learned the token
        # goes on with the next block instead
        if end in tokens:
            return Message("assistant", tokenizer.decode(tokens[: tokens.index(end)]))
        return Message("assistant", cut_at_stop(tokenizer.decode(tokens), self.stops()))

    def _encode(self, pieces: list[Piece], tokenizer: Tokenizer, loss_on: LossOn) -> Rendered:
        rendered, end = Rendered([], [], []), self.end(tokenizer)
        ended, last_words = "", ""
        for is_answer, run in _runs(pieces):
            start = len(rendered.tokens)
            if is_answer:
                # the ends of an answer must be ends of tokens, even where the tokenizer would merge
                # across them
                tokens = [*_encode_answer(run[0].text, tokenizer, last_words), end]
                rendered.answers.append((start, start + len(tokens)))
                ended, last_words = tokenizer.decode([end], markers=True), ""
            else:
                tokens = _encode_run(run, tokenizer, after=ended)
                last_words = _last_words(run, tokenizer)
            rendered.tokens.extend(tokens)
            rendered.trained.extend([is_answer or loss_on == "all"] * len(tokens))
        return rendered

    def _refuse_tools(self, messages: Messages) -> None:
        if not self.takes_tools and any(m.tool_calls or m.tools for m in messages):
            fault = "the chat has tools or calls of them, which this template does not write"
            raise DataError(f"template {self.kind}: {fault}; use hermes, or leave such chats out.")
