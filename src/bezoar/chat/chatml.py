"""ChatML, and the form of the Hermes models, which is ChatML with tools."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal

from bezoar.chat import jinja_form
from bezoar.chat.messages import Message, Messages, Tool, offered
from bezoar.chat.pieces import Piece, PieceTemplate
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.tool_calls import CLOSE, OPEN, write_answer
from bezoar.errors import DataError

_BEFORE_TOOLS = (
    "You are a function calling AI model. You are provided with function signatures within"
    " <tools></tools> XML tags. You may call one or more functions to assist with the user query."
    " If available tools are not relevant in assisting with user query, just respond in natural"
    " conversational language. Don't make assumptions about what values to plug into functions."
    " Here are the available tools:\n<tools>\n"
)
_BEHIND_TOOLS = (
    "</tools>\nFor each function call return a json object with function name and arguments within"
    f" {OPEN}{CLOSE} XML tags as follows:\n"
    f'{OPEN}\n{{"name": <function-name>, "arguments": <args-dict>}}\n{CLOSE}'
)
WORDS_AROUND_TOOLS = _BEFORE_TOOLS + _BEHIND_TOOLS
"""What stands in every prompt that offers tools, beside their declarations."""
_RESULT = "<tool_response>\n", "\n</tool_response>"
TAGS = tuple(
    f"<{slash}{name}>" for name in ("tools", "tool_call", "tool_response") for slash in ("", "/")
)
"""The tags of the form, which may be tokens of their own: `add_tokens`."""


@dataclass(frozen=True)
class ChatML(PieceTemplate):
    """`<|im_start|>role\\ncontent<|im_end|>\\n` for each message.

    Example: {kind: chatml, system: You are a helpful assistant.}
    """

    system: str = ""
    """System message of chats that have none; "" adds none."""
    kind: Literal["chatml"] = "chatml"
    markers: ClassVar[tuple[str, str]] = ("<|im_start|>", "<|im_end|>")

    def check(self, tokenizer: Tokenizer) -> None:
        tokens = [tokenizer.encode(marker, markers=True) for marker in self.markers]
        if lacking := [m for m, ids in zip(self.markers, tokens, strict=True) if len(ids) != 1]:
            fault = f"the tokenizer has no token {' and no token '.join(lacking)}"
            key = f"write `add_tokens: {json.dumps(lacking)}` to the model under models"
            where = f"template {self.kind}: {fault}; {key}"
            raise DataError(f"{where}, or use another, such as openbezoar.")

    def end(self, tokenizer: Tokenizer) -> int:
        tokens = tokenizer.encode(self.markers[1], markers=True)
        if len(tokens) != 1:
            self.check(tokenizer)
        return tokens[0]

    def jinja(self, tokenizer: Tokenizer) -> str:
        return jinja_form.chatml(self.system)

    def opening(self) -> list[Piece]:
        return [Piece("<|im_start|>assistant\n", markers=True)]

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        if self.system and not (messages and messages[0].role == "system"):
            messages = (Message("system", self.system), *messages)
        pieces: list[Piece] = []
        for message in messages:
            pieces += _turn(message.role, Piece(message.content))
        return pieces


def _turn(role: str, *words: Piece) -> list[Piece]:
    answer = role == "assistant"
    return [
        Piece(f"<|im_start|>{role}\n", markers=True),
        *(replace(piece, answer=answer) for piece in words),
        # an answer carries its own end token
        Piece("\n" if answer else "<|im_end|>\n", markers=True),
    ]


@dataclass(frozen=True)
class Hermes(ChatML):
    """ChatML with tools, as the Hermes models write it; a chat without tools is as in `chatml`.

    The system message is followed by the tools, each a line of JSON in `<tools>`, and by how to
    call them. A call is a line of JSON in `<tool_call>`, the name first, behind what the answer
    says; results stand in `<tool_response>`, those that follow each other in one turn of the role
    tool. What is reasoned (`<think>`, `<scratch_pad>`) is a part of the content and stays there in
    earlier turns too: a conversation is read as it was trained, and begins as it began.

    Source: arXiv 2408.11857 (Hermes 3) and NousResearch/Hermes-Function-Calling
    Example: {kind: hermes, system: You are a helpful assistant.}
    """

    kind: Literal["hermes"] = "hermes"  # type: ignore[assignment]
    takes_tools: ClassVar[bool] = True

    def check(self, tokenizer: Tokenizer) -> None:
        super().check(tokenizer)
        if lost := [tag for tag in TAGS if tokenizer.special.fullmatch(tag)]:
            fault = f"{lost[0]} is a special token of the tokenizer, and those are left out of text"
            raise DataError(f"template hermes: {fault}; use hub, the model's own template.")

    def jinja(self, tokenizer: Tokenizer) -> str:
        return jinja_form.hermes(self.system, _BEFORE_TOOLS, _BEHIND_TOOLS)

    def response_template(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """How `parse_response` of transformers reads an answer: the inverse of `write_answer`."""
        function = {"type": "function", "function": "{content}"}
        return {
            "defaults": {"role": "assistant"},
            # some tokenizers write a space behind special tokens
            "start_anchor_pattern": r"<\|im_start\|> ?assistant\n",
            "fields": {
                "tool_calls": {
                    "open_pattern": rf"\n?{OPEN}",
                    "close": CLOSE,
                    "repeats": True,
                    "content": "json",
                    "transform": function,
                },
                "content": {"close_pattern": r"<\|im_end\|>", "content": "text"},
            },
        }

    def pieces(self, messages: Messages, tokenizer: Tokenizer) -> list[Piece]:
        pieces: list[Piece] = []
        tools, system = offered(messages), self.system
        if messages and messages[0].role == "system":
            # a message of no words that brings tools is none
            system = messages[0].content or (self.system if tools else "")
        if tools:
            words = Piece(f"{system}\n\n" if system else "")
            pieces = _turn("system", words, *_tools(tools))
            messages = messages[1:]
        elif self.system and not (messages and messages[0].role == "system"):
            pieces = _turn("system", Piece(system))
        for role, words_of in _turns(messages):
            pieces += _turn(role, *words_of)
        return pieces


def _tools(tools: tuple[Tool, ...]) -> list[Piece]:
    lines = [f"{json.dumps(tool.to_json(), ensure_ascii=False)}\n" for tool in tools]
    return [
        Piece(_BEFORE_TOOLS, markers=True),
        Piece("".join(lines)),
        Piece(_BEHIND_TOOLS, markers=True),
    ]


def _turns(messages: Messages) -> Iterator[tuple[str, list[Piece]]]:
    """(role, its words) of each turn; the results of tools that follow each other are one."""
    for role, group in groupby(messages, lambda message: message.role):
        if role != "tool":
            yield from ((role, [Piece(write_answer(message))]) for message in group)
            continue
        pieces = [Piece(_RESULT[0], markers=True)]
        for message in group:
            pieces += [Piece(message.content), Piece("\n".join(reversed(_RESULT)), markers=True)]
        yield role, [*pieces[:-1], Piece(_RESULT[1], markers=True)]
