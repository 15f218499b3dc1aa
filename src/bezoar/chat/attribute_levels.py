"""Attribute levels in a prompt: how SteerLM tells the model what kind of answer is wanted."""

from collections.abc import Mapping
from dataclasses import replace

from bezoar.chat.types import Message, Messages
from bezoar.errors import RecipeError

_OPEN_ASSISTANT = ["quality", "toxicity", "humor", "creativity"]
_HELPSTEER = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]


def attribute_text(attributes: Mapping[str, int]) -> str:
    """`helpfulness:4,correctness:4`, in the order of SteerLM's authors; other names follow."""
    # the order is fixed, or equal levels would be different prompts
    names = [name for name in (*_OPEN_ASSISTANT, *_HELPSTEER) if name in attributes]
    names += sorted(attributes.keys() - names)
    return ",".join(f"{name}:{attributes[name]}" for name in names)


def steered(messages: Messages, attributes: Mapping[str, int]) -> Messages:
    """The chat with the levels on the last line of its system message; without one they become the
    system message, in place of the template's.

    Ours: the authors' template has a line of its own at the start of the answer, which other
    templates lack.
    """
    levels = attribute_text(attributes)
    if not messages or messages[0].role != "system":
        return (Message("system", levels), *messages)
    content = f"{messages[0].content}\n{levels}".lstrip("\n")
    return (replace(messages[0], content=content), *messages[1:])


def parse_attributes(text: str) -> dict[str, int]:
    """`helpfulness=4,verbosity=1` as a table; RecipeError for anything else."""
    attributes = {}
    for part in text.split(","):
        name, _, level = part.partition("=")
        if not name.strip() or not level.strip().isdecimal() or len(level) > 9:
            fault = f"{part.strip()!r} is not NAME=LEVEL with a whole number"
            raise RecipeError(f"--attributes: {fault}; write helpfulness=4,verbosity=1.")
        attributes[name.strip()] = int(level)
    return attributes
