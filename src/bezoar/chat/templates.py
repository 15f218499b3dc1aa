"""Renderers: chats to tokens with the trained ones marked, generation prompts, and answers back to
messages.

The law of every renderer: the trained answer starts exactly where the generation prompt ends, and
`parse` undoes `render`. It holds by construction: a chat is a list of pieces, each piece is
tokenised alone, and the generation prompt is the same list without the answer. So words that begin
with white space can be split into other tokens than where the whole text is tokenised at once;
special tokens named in words are words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.hub_template import apply_template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import Message, Messages
from bezoar.errors import DataError

LossOn = Literal["answer", "all"]


@dataclass(frozen=True)
class Rendered:
    """Token ids, a flag a token that says whether it is trained, and the spans (start, end) of the
    answers."""

    tokens: list[int]
    trained: list[bool]
    answers: list[tuple[int, int]]


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is tokenised alone; `answer` marks what the model itself would
    write."""

    text: str
    markers: bool = False
    answer: bool = False


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the strings that end an answer."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


class _Pieces:
    """The shared half of renderers that are a list of pieces."""

    kind: str

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        raise NotImplementedError

    def opening(self) -> list[Piece]:
        raise NotImplementedError

    def check(self, tokenizer: Tokenizer) -> None:
        self.end(tokenizer)

    def end(self, tokenizer: Tokenizer) -> int:
        return tokenizer.eos_id

    def stops(self) -> tuple[str, ...]:
        return ()

    def render(
        self, messages: Messages, tokenizer: Tokenizer, *, loss_on: LossOn = "answer"
    ) -> Rendered:
        tokens: list[int] = []
        trained: list[bool] = []
        answers: list[tuple[int, int]] = []
        _plain(messages, self.kind)
        for piece in self.pieces(messages, tokenizer):
            ids = tokenizer.encode(piece.text, markers=piece.markers)
            if piece.answer:
                ids.append(self.end(tokenizer))
                answers.append((len(tokens), len(tokens) + len(ids)))
            trained += [piece.answer or loss_on == "all"] * len(ids)
            tokens += ids
        if trained and loss_on == "all":
            trained[0] = False  # nothing comes before the first token to predict it
        return Rendered(tokens, trained, answers)

    def prompt(self, messages: Messages, tokenizer: Tokenizer, *, prefill: str = "") -> list[int]:
        earlier = self.render(messages, tokenizer).tokens
        return [*earlier, *_encode([*self.opening(), Piece(prefill)], tokenizer)]

    def parse(self, tokens: Sequence[int], tokenizer: Tokenizer) -> Message:
        end, kept = self.end(tokenizer), list(tokens)
        if end in kept:
            return Message("assistant", tokenizer.decode(kept[: kept.index(end)]))
        return Message("assistant", cut_at_stop(tokenizer.decode(kept), self.stops()))


@dataclass(frozen=True)
class ChatML(_Pieces):
    """`<|im_start|>role\\ncontent<|im_end|>\\n`; `system` is said where a chat has no system
    message ("" says nothing)."""

    system: str = ""
    kind: Literal["chatml"] = "chatml"
    marker: ClassVar[str] = "<|im_end|>"

    def end(self, tokenizer: Tokenizer) -> int:
        ids = tokenizer.encode(self.marker, markers=True)
        if len(ids) != 1:
            raise DataError(
                f"template chatml: the tokenizer has no token {self.marker}; use another template,"
                " such as openbezoar, in the recipe."
            )
        return ids[0]

    def opening(self) -> list[Piece]:
        return [Piece("<|im_start|>assistant\n", markers=True)]

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        if self.system and not (messages and messages[0].role == "system"):
            messages = (Message("system", self.system), *messages)
        pieces: list[Piece] = []
        for message in messages:
            answer = message.role == "assistant"
            pieces += [
                Piece(f"<|im_start|>{message.role}\n", markers=True),
                Piece(message.content, answer=answer),
            ]
            # an answer carries its own end token
            pieces.append(Piece("\n" if answer else "<|im_end|>\n", markers=True))
        return pieces


DEFAULT_SYSTEM = (
    "Below is an instruction that describes a task, optionally paired with an input that provides"
    " further context following that instruction. Write a response that appropriately completes the"
    " request."
)


@dataclass(frozen=True)
class OpenBezoarTemplate(_Pieces):
    """The template of the OpenBezoar models: `### System:`, `### Instruction:`, `### Response:`,
    the answer glued behind the colon.

    An empty system message falls back to the default text, as in the authors' code. A chat of
    several turns repeats the Instruction and Response blocks, with the end token after each answer:
    the papers give no mapping, this one is ours.
    """

    kind: Literal["openbezoar"] = "openbezoar"

    def stops(self) -> tuple[str, ...]:
        return ("### System:", "### Instruction:")

    def opening(self) -> list[Piece]:
        return [Piece("### Response:")]

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        system = DEFAULT_SYSTEM
        if messages and messages[0].role == "system":
            system, messages = messages[0].content or DEFAULT_SYSTEM, messages[1:]
        bos = (
            tokenizer.decode([tokenizer.bos_id], markers=True)
            if tokenizer.bos_id is not None
            else ""
        )
        pieces = [Piece(bos, markers=True)] if bos else []
        pieces += [Piece(f"### System:\n{system}\n\n")]
        for index, message in enumerate(messages):
            if message.role == "assistant":
                pieces += [*self.opening(), Piece(message.content, answer=True)]
            else:
                gap = "\n\n" if index and messages[index - 1].role == "assistant" else ""
                pieces.append(Piece(f"{gap}### Instruction:\n{message.content}\n\n"))
        return pieces


@dataclass(frozen=True)
class HubTemplate(_Pieces):
    """The chat template that comes with the tokenizer (Jinja, run in a bounded process). DataError
    when there is none."""

    kind: Literal["hub"] = "hub"

    def check(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.template:
            raise DataError(
                "template hub: the model folder has no chat template; name another template, such"
                " as chatml, in the recipe."
            )

    def render(
        self, messages: Messages, tokenizer: Tokenizer, *, loss_on: LossOn = "answer"
    ) -> Rendered:
        rendered, done = self._turns(messages, tokenizer, loss_on)
        if messages and messages[-1].role != "assistant":
            rest = _encode(_beyond(self._written(messages, tokenizer), done), tokenizer)
            rendered.tokens.extend(rest)
            rendered.trained.extend([loss_on == "all"] * len(rest))
        if rendered.trained and loss_on == "all":
            rendered.trained[0] = False
        return rendered

    def prompt(self, messages: Messages, tokenizer: Tokenizer, *, prefill: str = "") -> list[int]:
        rendered, done = self._turns(messages, tokenizer, "answer")
        head = _beyond(self._written(messages, tokenizer, opening=True), done)
        return [*rendered.tokens, *_encode(head, tokenizer), *tokenizer.encode(prefill)]

    def _turns(
        self, messages: Messages, tokenizer: Tokenizer, loss_on: LossOn
    ) -> tuple[Rendered, str]:
        """Everything up to the end of the last answer, and its text."""
        rendered, done = Rendered([], [], []), ""
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._written(messages[:index], tokenizer, opening=True)
            after = self._written(messages[: index + 1], tokenizer)
            head = _encode(_beyond(before, done), tokenizer)
            answer, *tail = [*_beyond(after, _text(before)), Piece("")]
            ids, rest = (
                [*tokenizer.encode(message.content), self.end(tokenizer)],
                _encode(tail, tokenizer),
            )
            if answer != Piece(message.content) or rest[:1] != ids[-1:]:
                raise DataError(
                    "template hub: the chat template changes the answer or does not end it with the"
                    " end token; use chatml."
                )
            start = len(rendered.tokens) + len(head)
            rendered.answers.append((start, start + len(ids)))
            rendered.tokens.extend([*head, *ids, *rest[1:]])
            flags = (
                [loss_on == "all"] * len(head)
                + [True] * len(ids)
                + [loss_on == "all"] * (len(rest) - 1)
            )
            rendered.trained.extend(flags)
            done = _text(after)
        return rendered, done

    def _written(
        self, messages: Messages, tokenizer: Tokenizer, *, opening: bool = False
    ) -> list[Piece]:
        """The template's own text and the messages' words, told apart by applying it to numbered
        marks as well."""
        _plain(messages, self.kind)
        marked = self._apply(
            tuple(Message(m.role, f"\ue000{i}\ue001") for i, m in enumerate(messages)),
            tokenizer,
            opening,
        )
        text, parts = (
            self._apply(messages, tokenizer, opening),
            re.split("(\ue000\\d+\ue001)", marked),
        )
        for trim in (False, True):
            words = [
                m.content.strip() if trim and m.role != "assistant" else m.content for m in messages
            ]
            pieces = [
                Piece(words[int(p[1:-1])]) if p[0] == "\ue000" else Piece(p, markers=True)
                for p in parts
                if p
            ]
            if _text(pieces) == text:
                return pieces
        raise DataError(
            "template hub: the chat template changes the words of a message; use chatml."
        )

    def _apply(self, messages: Messages, tokenizer: Tokenizer, opening: bool) -> str:
        self.check(tokenizer)
        rows = [{"role": m.role, "content": m.content} for m in messages]
        inner = tokenizer.inner  # type: ignore[attr-defined]
        return apply_template(inner, rows, add_generation_prompt=opening)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _encode(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[int]:
    return [
        token for piece in pieces for token in tokenizer.encode(piece.text, markers=piece.markers)
    ]


def _beyond(pieces: list[Piece], text: str) -> list[Piece]:
    """What stands in `pieces` after `text`, with which they begin."""
    if not _text(pieces).startswith(text):
        raise DataError(
            "template hub: the chat template rewrites earlier turns, so answers cannot be trained"
            " turn by turn; use chatml."
        )
    left, rest = len(text), list(pieces)
    while left and len(rest[0].text) <= left:
        left -= len(rest.pop(0).text)
    return [Piece(rest[0].text[left:], rest[0].markers), *rest[1:]] if left else rest


def _plain(messages: Messages, kind: str) -> None:
    if any(message.tool_calls for message in messages):
        raise DataError(
            f"template {kind}: a turn holds tool calls, which this template does not write; leave"
            " such chats out."
        )


Template = ChatML | OpenBezoarTemplate | HubTemplate


RenderedCompletions = tuple[list[int], list[list[int]]]


def render_completions(
    prompt: Messages, answers: Sequence[Message | str], template: Template, tokenizer: Tokenizer
) -> RenderedCompletions:
    """The prompt's tokens, and those of every answer with its end token. DataError where the
    template renders the prompt differently for different answers."""
    trunk: list[int] | None = None
    found = []
    for answer in answers:
        message = Message("assistant", answer) if isinstance(answer, str) else answer
        rendered = template.render((*prompt, message), tokenizer)
        start, end = rendered.answers[-1]
        if trunk is not None and rendered.tokens[:start] != trunk:
            raise DataError(
                "the template renders the prompt differently for different answers; use chatml."
            )
        trunk = rendered.tokens[:start]
        found.append(rendered.tokens[start:end])
    return trunk or [], found
