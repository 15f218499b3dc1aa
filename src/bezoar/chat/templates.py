"""Templates: how a chat becomes pieces of text; `pieces` says what they share."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from bezoar.chat import jinja_form
from bezoar.chat.chatml import ChatML as ChatML
from bezoar.chat.chatml import Hermes as Hermes
from bezoar.chat.messages import offered, to_openai
from bezoar.chat.pieces import Piece, PieceTemplate
from bezoar.chat.template_process import apply_template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import Message, Messages
from bezoar.errors import DataError

RenderedCompletions = tuple[list[int], list[list[int]]]
DEFAULT_SYSTEM = (
    "Below is an instruction that describes a task, optionally paired with an input that provides"
    " further context following that instruction. Write a response that appropriately completes the"
    " request."
)


@dataclass(frozen=True)
class OpenBezoarTemplate(PieceTemplate):
    """The blocks of the OpenBezoar models: `### System:`, `### Instruction:`, `### Response:`.

    The answer follows the colon directly. An empty system message falls back to the default text,
    as in the authors' code. A chat of several turns repeats the Instruction and Response blocks,
    with the end token after each answer: the papers give no mapping, this one is ours.

    Source: arXiv 2404.12195
    Example: {kind: openbezoar}
    """

    kind: Literal["openbezoar"] = "openbezoar"

    def stops(self) -> tuple[str, ...]:
        return ("### System:", "### Instruction:")

    def jinja(self, tokenizer: Tokenizer) -> str:
        end = tokenizer.decode([tokenizer.eos_id], markers=True)
        return jinja_form.openbezoar(DEFAULT_SYSTEM, bos=_bos(tokenizer), end=end)

    def opening(self) -> list[Piece]:
        return [Piece("### Response:")]

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        system = DEFAULT_SYSTEM
        if messages and messages[0].role == "system":
            system, messages = messages[0].content or DEFAULT_SYSTEM, messages[1:]
        pieces: list[Piece] = []
        # the tokenizer adds none by itself here, and the models were trained with it
        if bos := _bos(tokenizer):
            pieces = [Piece(bos, markers=True)]
        pieces.append(Piece(f"### System:\n{system}\n\n"))
        after_answer = False
        for message in messages:
            if message.role == "assistant":
                pieces += [*self.opening(), Piece(message.content, answer=True)]
            else:
                gap = "\n\n" if after_answer else ""
                pieces.append(Piece(f"{gap}### Instruction:\n{message.content}\n\n"))
            after_answer = message.role == "assistant"
        return pieces


_MARK = "\ue000{}\ue001"
# by template and special tokens: to find one out takes an application
_FORMS: dict[tuple[str, int | None, int], tuple[str, bool]] = {}
_NO_THOUGHT = re.compile(r"<think>\s*</think>\s*")


@dataclass(frozen=True)
class HubTemplate(PieceTemplate):
    """The chat template (Jinja) that comes with the tokenizer.

    It is a program of whoever made the model: it runs in a process of its own and is stopped after
    2 s of computing or 512 MiB of memory for one conversation. An answer ends with the special
    token that the template writes behind it, which need not be the tokenizer's eos_token; answers
    are trimmed where the template trims them. Tools and their calls are written as the template
    writes them, where it does. Thinking is off (`enable_thinking: false`); of a
    template that writes an empty think block for the last answer alone, only that answer trains.

    Example: {kind: hub}
    """

    kind: Literal["hub"] = "hub"
    takes_tools: ClassVar[bool] = True

    def end(self, tokenizer: Tokenizer) -> int:
        end = tokenizer.encode(self._form(tokenizer)[0], markers=True)
        return end[0] if len(end) == 1 else tokenizer.eos_id

    def answer(self, messages: Messages, said: Message | str, tokenizer: Tokenizer) -> list[int]:
        if isinstance(said, Message) and said.tool_calls:
            before = _text(self._apply(messages, tokenizer, opening=True))
            through = _text(self._apply((*messages, said), tokenizer))
            text = through.removeprefix(before).split(self._form(tokenizer)[0])[0]
        else:
            text = said if isinstance(said, str) else said.content
            text = text.strip() if self._form(tokenizer)[1] else text
        return super().answer(messages, text, tokenizer)

    def _form(self, tokenizer: Tokenizer) -> tuple[str, bool]:
        """The special token behind every answer and whether answers are trimmed, found out once."""
        key = (str(tokenizer.template), tokenizer.bos_id, tokenizer.eos_id)
        if key not in _FORMS:
            text, probe = "", (Message("user", "a"), Message("assistant", " \ue000 "))
            # a template that refuses the chat, or is not there, is told of where it is used
            with suppress(DataError):
                text = self._apply_text(probe, tokenizer, False)
            found = re.search("( ?)\ue000( ?)", text)
            behind = tokenizer.special.match(text, found.end()) if found else None
            end = behind[0] if behind else tokenizer.decode([tokenizer.eos_id], markers=True)
            _FORMS[key] = end, bool(found and not found[1])
        return _FORMS[key]

    def check(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.template:
            fault = "the model folder has no chat template"
            raise DataError(f"template hub: {fault}; name another, such as chatml, in the recipe.")

    def jinja(self, tokenizer: Tokenizer) -> str:
        self.check(tokenizer)
        end, eos = (
            tokenizer.decode([i], markers=True) for i in (self.end(tokenizer), tokenizer.eos_id)
        )
        template = jinja_form.marked(str(tokenizer.inner.get_chat_template()), end=end)
        return jinja_form.settled(template, eos=eos if eos != end else "")

    def response_template(self, tokenizer: Tokenizer) -> dict[str, Any] | None:
        return getattr(tokenizer.inner, "response_template", None)

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        pieces, text = self._through_last_answer(messages, tokenizer)
        return _behind(pieces, text, self._apply(messages, tokenizer)) if messages else pieces

    def prompt_pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        pieces, text = self._through_last_answer(messages, tokenizer)
        return _behind(pieces, text, self._apply(messages, tokenizer, opening=True))

    def _through_last_answer(
        self, messages: Messages, tokenizer: Tokenizer
    ) -> tuple[list[Piece], str]:
        """The pieces up to the end token of the last answer, and the template's text for them.

        Each answer is cut from two applications, so that the prompt before it is by construction
        what generation would see: 1) the chat before the answer, opened for it; 2) the chat with
        the answer. 2 must be 1, the answer as it stands, and the end token.
        """
        pieces: list[Piece] = []
        text, (end, trims) = "", self._form(tokenizer)
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            # a template may render a chat without its last answer differently from its beginning
            before = self._apply(messages[:index], tokenizer, opening=True)
            if "</think>" in message.content and _NO_THOUGHT.search(_text(before)):
                if index + 1 < len(messages):
                    continue  # a part of the later prompt, which the template writes without it
                fault = "the answer thinks, and the generation prompt has thinking off"
                raise DataError(f"template hub: {fault}; use chatml, or remove what is thought.")
            through = self._apply(messages[: index + 1], tokenizer)
            answer, *rest = [*_after(_text(before), through), Piece("")]
            said = message.content.strip() if trims else message.content
            if message.tool_calls:
                # how calls are written is the template's affair: all that stands before the end
                words, ending, behind = _text([answer, *rest]).partition(end)
                said, answer, rest = words, Piece(words), [Piece(ending + behind)]
            if answer != Piece(said) or not rest[0].text.startswith(end):
                fault = "changes the answer or does not end it with the end token"
                raise DataError(f"template hub: the chat template {fault}; use chatml.")
            pieces = [*_behind(pieces, text, before), replace(answer, answer=True)]
            # what closes an answer can differ where nothing follows; the end token is the answer's
            text = f"{_text(before)}{said}{end}"
        return pieces, text

    def _apply(
        self, messages: Messages, tokenizer: Tokenizer, *, opening: bool = False
    ) -> list[Piece]:
        """The template's text as pieces: its own, in which markers count, and the messages'."""
        # 1) apply it to numbered marks in place of the words: what is between them is its own text;
        # no words beside tools or calls are often left out with what would stand around them
        marks = [
            m
            if not m.content and (m.tools or m.tool_calls)
            else replace(m, content=_MARK.format(i))
            for i, m in enumerate(messages)
        ]
        parts = re.split("(\ue000\\d+\ue001)", self._apply_text(marks, tokenizer, opening))
        text = self._apply_text(messages, tokenizer, opening)
        _check_tools(messages, tokenizer, parts)
        # 2) put the words back, as they are or as many templates trim those of the user; if this is
        # not the text that the words themselves give, the template does something else with them
        plain = [m.content for m in messages]
        trimmed = [m.content if m.role == "assistant" else m.content.strip() for m in messages]
        # what was thought is no part of earlier turns
        bare = [m.content.split("</think>")[-1].lstrip("\n") for m in messages[:-1]] + plain[-1:]
        for words in (plain, trimmed, [m.content.strip() for m in messages], bare):
            pieces = [
                Piece(words[int(part[1:-1])]) if part[0] == "\ue000" else Piece(part, markers=True)
                for part in parts
                if part
            ]
            if _text(pieces) == text:
                return pieces
        fault = "the chat template changes the words of a message"
        raise DataError(f"template hub: {fault}; use chatml.")

    def _apply_text(self, messages: Sequence[Message], tokenizer: Tokenizer, opening: bool) -> str:
        self.check(tokenizer)
        tools = [tool.to_json() for tool in offered(tuple(messages))]
        rows = to_openai(tuple(messages))
        return apply_template(tokenizer.inner, rows, add_generation_prompt=opening, tools=tools)


def _check_tools(messages: Messages, tokenizer: Tokenizer, parts: Sequence[str]) -> None:
    """DataError where the template leaves out tools, calls or results, or where special tokens that
    these name would count as such; `parts` are its own text and the marks in it for the words."""
    text = "".join(parts)
    calls = [call for message in messages for call in message.tool_calls]
    lacking = [f"the tool {tool.name}" for tool in offered(messages) if tool.name not in text]
    lacking += [f"the call of {call.name}" for call in calls if call.name not in text]
    results = [i for i, message in enumerate(messages) if message.role == "tool"]
    lacking += ["the result of a tool" for i in results if _MARK.format(i) not in text]
    if lacking:
        fault = f"the chat template does not write {lacking[0]}"
        raise DataError(f"template hub: {fault}; use hermes.")
    given = [*(tool.to_json() for tool in offered(messages)), *map(vars, calls)]
    if found := tokenizer.special.search(json.dumps(given, ensure_ascii=False)):
        fault = f"a tool or a call names the special token {found[0]}, which would count as one"
        raise DataError(f"template hub: {fault}; use hermes, or leave such chats out.")


def _bos(tokenizer: Tokenizer) -> str:
    """The text of the token that begins a chat, "" if the tokenizer has none."""
    bos = tokenizer.bos_id
    return "" if bos is None else tokenizer.decode([bos], markers=True)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _behind(pieces: list[Piece], text: str, longer: list[Piece]) -> list[Piece]:
    """`pieces`, whose text is `text`, and what `longer` has behind them.

    Where `longer` has left out empty think blocks of earlier turns, `longer` itself: what was
    trained there stands in no later prompt.
    """
    bare = _NO_THOUGHT.sub("", text)
    if bare != text and not _text(longer).startswith(text) and _text(longer).startswith(bare):
        return longer
    return [*pieces, *_after(text, longer)]


def _after(text: str, pieces: list[Piece]) -> list[Piece]:
    """The rest of `pieces`, which begin with `text`."""
    if not _text(pieces).startswith(text):
        fault = "rewrites earlier turns, so answers cannot be trained turn by turn"
        raise DataError(f"template hub: the chat template {fault}; use chatml.")
    num_left, rest = len(text), list(pieces)
    # the border may be inside a piece: then the rest of that piece remains
    while num_left and len(rest[0].text) <= num_left:
        num_left -= len(rest.pop(0).text)
    return [replace(rest[0], text=rest[0].text[num_left:]), *rest[1:]] if num_left else rest


Template = ChatML | Hermes | OpenBezoarTemplate | HubTemplate


def render_completions(
    prompt: Messages,
    answers: Sequence[Message | str],
    template: Template,
    tokenizer: Tokenizer,
    *,
    ended: Sequence[bool] = (),
) -> RenderedCompletions:
    """The prompt's tokens, and those of every answer with its end token, which answers that were
    not `ended` lack; of an answer that was cut off before its first token, it is all there is."""
    prompts, completions = [], []
    for answer, has_ended in zip(answers, ended or [True] * len(answers), strict=True):
        message = Message("assistant", answer) if isinstance(answer, str) else answer
        rendered = template.render((*prompt, message), tokenizer)
        start, end = rendered.answers[-1]
        prompts.append(rendered.tokens[:start])
        completions.append(rendered.tokens[start : end if has_ended else max(start + 1, end - 1)])
    # the answers share the tokens of one prompt, so that it is computed once for all of them
    if any(tokens != prompts[0] for tokens in prompts):
        fault = "the template renders the prompt differently for different answers"
        raise DataError(f"{fault}; use chatml.")
    return prompts[0] if prompts else [], completions
