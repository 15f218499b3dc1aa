"""Talking to the models of a run: a conversation with one, or one prompt to several."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar import stop
from bezoar.chat.attribute_levels import parse_attributes, steered
from bezoar.chat.json_mode import json_prompt, schema_of
from bezoar.chat.messages import with_tools
from bezoar.chat.types import Message, Messages
from bezoar.errors import DataError, RecipeError, brief
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.inspect_run import tell_earlier
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.flow.tool_chat import Toolbox, open_tools, respond
from bezoar.io import read_object
from bezoar.model.structured_output import StructuredOutput
from bezoar.references import unknown
from bezoar.terminal import Console, head, plain, show

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

NOT_UTF8 = "{}: this is not UTF-8 text; write or send it as UTF-8."


COMMANDS = """\
/help   this list
/clear  start a new conversation
/model  who answers, and the models that `bezoar chat --model` can name
/exit   end (/quit, /q, an empty line and Ctrl-D do it too)
Ctrl-C ends an answer, and your turn is left out of the conversation.
Everything else is said to the model; begin with a blank to say a text that starts with /."""


def _unknown(command: str) -> str:
    known = "/help, /clear, /model and /exit"
    return f"there is no command {brief(command, 40)}; there are {known} (or begin with a blank)"


def model_names(recipe: Recipe, run: RunDir) -> list[str]:
    """The models that can be talked to: the bases and all finished training stages."""
    finished = (n for n, s in recipe.stages.items() if s.gives == "model" and run.stage_dir(n))
    # the last is talked to unless another is named: those of further seeds come first
    return [*recipe.models, *sorted(finished, key=lambda name: name not in recipe.repeated)]


def shown_models(recipe: Recipe, run: RunDir) -> list[str]:
    """The models that stages evaluate, else all. RecipeError when there is none."""
    names = model_names(recipe, run)
    if not names:
        advice = "add models: to its recipe"
        raise RecipeError(f"{run.path}: the run has no model to talk to; {advice}.")
    evaluated = [stage.model for stage in recipe.written.values() if isinstance(stage, Evaluate)]
    return [name for name in dict.fromkeys(evaluated) if name in names] or names


def check_name(recipe: Recipe, run: RunDir, name: str) -> None:
    """RecipeError, with the names that there are, unless `name` is a finished model."""
    names = model_names(recipe, run)
    if name not in names:
        raise RecipeError(f"{run.path}: {unknown(name, 'finished model', names)}")


def open_model(recipe: Recipe, run: RunDir, name: str) -> "Stack":
    """The model `name` as a Stack, said to be of earlier settings if it is. RecipeError lists the
    names when there is none."""
    check_name(recipe, run, name)
    tell_earlier(recipe, run, name, Console(stderr=True))
    from bezoar.model.stack import Stack

    return Stack(*run.model(recipe, name))


def answer(
    stack: "Stack", recipe: Recipe, messages: Messages, *, temperature: float, max_tokens: int = 512
) -> Iterator[str]:
    """The pieces of a model's answer as they come; in JSON mode they are held to the schema."""
    from bezoar.model.generation import stream

    schema = schema_of(messages)
    form = None if schema is None else StructuredOutput.schema(schema)
    template = recipe.template
    return stream(
        stack, template, messages, temperature=temperature, max_tokens=max_tokens, form=form
    )


def read_well(text: str, place: str) -> str:
    """`text`; DataError when it was made of bytes that are no UTF-8."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(NOT_UTF8.format(place))
    return text


def opening(system: str, attributes: str, schema: Path | None = None) -> Messages:
    """A system message, levels such as `helpfulness=4,verbosity=1`, both or nothing; or the system
    message of JSON mode, by the JSON Schema in a file."""
    if schema is not None and (system or attributes):
        raise RecipeError("--schema brings a system message of its own; leave the others out.")
    if schema is not None:
        return (json_prompt(read_object(schema)),)
    messages = (Message("system", read_well(system, "--system")),) if system else ()
    return steered(messages, parse_attributes(attributes)) if attributes else messages


def converse(
    recipe: Recipe, run: RunDir, name: str, *, start: Messages, temperature: float, tools: str = ""
) -> None:
    """Read lines and stream answers until the input ends; `/help` lists the commands. `tools` are
    those of a file, which the model may call."""
    toolbox = open_tools(tools) if tools else Toolbox()
    name = name or shown_models(recipe, run)[-1]
    stack = open_model(recipe, run, name)
    start = with_tools(start, toolbox.tools)
    if toolbox.tools:
        # a template that takes none says so before a word is typed, and so do too many
        size = len(recipe.template.prompt((*start, Message("user", "")), stack.tokenizer))
        if size >= stack.context_length:
            what = f"{len(toolbox.tools)} tools take {size} tokens, and the model reads"
            advice = "name some of them (FILE#NAME,NAME)"
            raise RecipeError(f"--tools {tools}: {what} {stack.context_length}; {advice}.")
    messages = start
    console = Console(stderr=True)
    console.print(f"{name} is listening; /help lists what else you can type, Ctrl-D ends.")

    def say(messages: Messages) -> str:
        # the pieces are shown as they come, and kept: the next turn needs the whole answer
        pieces = []
        for piece in answer(stack, recipe, messages, temperature=temperature):
            show(piece)
            pieces.append(piece)
        show("\n")
        return "".join(pieces)

    while (line := _read("you> ")) is not None:
        text = line.strip()
        if text in ("", "/exit", "/quit", "/q"):
            return
        if line.startswith("/"):
            if text == "/clear":
                messages = start
            elif text == "/model":
                others = [other for other in model_names(recipe, run) if other != name]
                console.print(f"{name}; the others are {', '.join(others) or 'none'}")
            else:
                console.print(COMMANDS if text == "/help" else _unknown(text))
            continue
        answered = None
        with stop.within():
            asked = (*messages, Message("user", text))
            answered = respond(say, asked, toolbox, _read, console)
            if answered is None:
                return
        if answered is None:
            show("\n")
            console.print("stopped; this turn is left out of the conversation.")
        messages = answered or messages


def _read(sign: str) -> str | None:
    """A line of standard input, None at its end or for Ctrl-C."""
    # no prompt sign in a pipe: what is printed then is the answers and nothing else
    is_typed = sys.stdin.isatty()
    with stop.within(), suppress(EOFError):
        try:
            return read_well(input(sign if is_typed else ""), "standard input")
        except UnicodeDecodeError:
            raise DataError(NOT_UTF8.format("standard input")) from None
    show("\n" if is_typed else "")
    return None


def side_by_side(
    recipe: Recipe,
    run: RunDir,
    prompt: str,
    names: list[str],
    console: Any,
    tools: str = "",
    start: Messages = (),
) -> None:
    """Print the greedy answers of several models to one prompt behind `start`, a panel each;
    `tools` are those of a file, whose calls are shown as they are written."""
    from rich.table import Table

    messages: Messages = (*start, Message("user", read_well(prompt, "the prompt")))
    messages = with_tools(messages, open_tools(tools).tools if tools else ())
    names = names or shown_models(recipe, run)
    # all names before the first answer, which takes a while
    for name in names:
        check_name(recipe, run, name)
    texts = []
    for name in names:
        stack = open_model(recipe, run, name)
        pieces = answer(stack, recipe, messages, temperature=0.0, max_tokens=200)
        texts.append("".join(pieces).strip())
    if not console.is_terminal:
        for name, text in zip(names, texts, strict=True):
            head(name, console)
            console.print(plain(text))
        return
    for first in range(0, len(names), 2):
        table = Table(width=console.width)
        for name in names[first : first + 2]:
            table.add_column(plain(name))
        table.add_row(*map(plain, texts[first : first + 2]))
        console.print(table)
