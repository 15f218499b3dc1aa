"""What tells other tools how to talk to a model: its tokenizer, template and end token.

They are written beside weights if transformers makes of 40 chats the tokens and the marks that
training makes of them.
"""

import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar.chat.messages import offered, to_openai, with_tools
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Message, Messages, Tool, ToolCall
from bezoar.errors import DataError, TrainingError
from bezoar.io import read_object, write_json
from bezoar.model.stack import Stack

_WORDS = (
    "Why is the sky blue?",
    "",
    "spaces at the end  ",
    "  indented",
    "naïve 日本 😀 e\u0301",
    "one\n\ntwo\n",
    "```py\nx = {'a': [1]}\n```",
    "1.5e-4 {{ messages }} </b>",
    "'quoted' \"twice\" \\n",
    "### Heading: <tag>",
)
_SCHEMA = {"type": "object", "properties": {"a b": {"type": ["string", "null"]}}}
_TOOLS = (Tool("find", 'Finds "é" <b>\n', _SCHEMA), Tool("now"))
_CALLS = (
    ToolCall("find", {"a b": "'x' \"é\" </b>\n", "n": [1.5, {"y": None}]}),
    ToolCall("now", {}),
)


def save_chat_files(stack: Stack, template: Template, folder: Path) -> None:
    """Add to `folder` the tokenizer with the trained template, and the token that ends answers.

    DataError if the template has no Jinja form; TrainingError, with the first difference, if
    transformers does not write chats as training does. Nothing is written then.
    """
    ours = stack.tokenizer
    inner, end = copy.deepcopy(ours.inner), template.end(ours)
    inner.chat_template = template.jinja(ours)
    inner.response_template = template.response_template(ours)
    inner.eos_token = ours.inner.convert_ids_to_tokens(end)
    settings = copy.deepcopy(stack.net.generation_config)
    settings.eos_token_id = end
    with tempfile.TemporaryDirectory() as work:
        inner.save_pretrained(work)
        settings.save_pretrained(work)
        check_chats(Path(work), template, ours)
        for file in Path(work).iterdir():
            shutil.copyfile(file, folder / file.name)
    config = folder / "config.json"
    if config.is_file():
        write_json(config, {**read_object(config), "eos_token_id": end})


def check_chats(folder: Path, template: Template, ours: HubTokenizer) -> None:
    """TrainingError unless transformers writes 40 chats as training does, marks included."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    num, advice = 0, "use another template, or serve the model with bezoar"
    for messages in _chats():
        try:
            tokens, trained = _as_trained(messages, template, ours)
        except DataError:  # such a chat is in no training either: the model's template refuses it
            continue
        num += 1
        found, marks = _as_transformers(messages, theirs)
        if (tokens, trained) != (found, marks):
            where = _first_difference(tokens, trained, found, marks, ours)
            what = f"transformers writes a chat otherwise than training does: {where}"
            raise TrainingError(f"{what}; {advice}.")
    if not num:
        raise TrainingError(f"the template refuses all of {4 * len(_WORDS)} chats; {advice}.")


def _chats() -> Iterator[Messages]:
    """40 chats: with and without a system message, of one and two turns, answered and open, half of
    them with tools."""
    for number, words in enumerate(_WORDS):
        system = (Message("system", words or "Be brief."),) if number % 2 else ()
        # an answer that begins in white space is tokenised apart from the prompt, as it is written
        first = (*system, Message("user", words), Message("assistant", f"It is {words}"))
        yield first
        yield (*first, Message("user", f"And {words}"))
        called = (
            Message("user", words),
            Message("assistant", words.strip(), _CALLS[: 1 + number % 2]),
        )
        results = (Message("tool", words), Message("tool", "{}"))[: 1 + number % 2]
        yield with_tools((*system, *called, *results), _TOOLS)
        yield with_tools((*system, *called, *results, first[-1]), _TOOLS)


def _as_trained(
    messages: Messages, template: Template, ours: HubTokenizer
) -> tuple[list[int], list[bool]]:
    if messages[-1].role == "assistant":
        rendered = template.render(messages, ours)
        return rendered.tokens, rendered.trained
    # the marks of an open chat are those of the part that is answered
    prompt = template.prompt(messages, ours)
    rendered = template.render(messages[:-1], ours)
    trained = rendered.trained
    # what closes the answered part belongs to the prompt and is never trained
    marks = trained[: max(i + 1 for i, mark in enumerate(trained) if mark)]
    if prompt[: len(marks)] != rendered.tokens[: len(marks)]:
        marks = []  # the template writes answers otherwise once another turn follows
    return prompt, marks + [False] * (len(prompt) - len(marks))


def _as_transformers(messages: Messages, theirs: Any) -> tuple[list[int], list[bool]]:
    found = theirs.apply_chat_template(
        to_openai(messages),
        tools=[tool.to_json() for tool in offered(messages)] or None,
        add_generation_prompt=messages[-1].role != "assistant",
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return list(found["input_ids"]), [bool(mark) for mark in found["assistant_masks"]]


def _first_difference(
    tokens: list[int], trained: list[bool], found: list[int], marks: list[bool], ours: HubTokenizer
) -> str:
    """Where two ways to write a chat part, in words."""
    both = [*zip(tokens, trained, strict=True)], [*zip(found, marks, strict=True)]
    equal = [a == b for a, b in zip(*both, strict=False)]
    at = equal.index(False) if False in equal else len(equal)
    before = ours.decode(tokens[max(0, at - 8) : at], markers=True)

    def shown(pairs: list[tuple[int, bool]]) -> str:
        if at >= len(pairs):
            return "nothing"
        token, mark = pairs[at]
        text = ours.decode([token], markers=True)
        return f"{text!r} ({token}, {'trained' if mark else 'not trained'})"

    return f"token {at}, behind {before!r}, is {shown(both[1])}, in training {shown(both[0])}"
