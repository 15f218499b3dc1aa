"""Attribute levels in a prompt: how SteerLM tells the model what kind of answer is wanted."""

from collections.abc import Mapping
from dataclasses import replace

from bezoar.chat.types import Message, Messages
from bezoar.errors import RecipeError

ORDER = (
    "quality",
    "toxicity",
    "humor",
    "creativity",
    "helpfulness",
    "correctness",
    "coherence",
    "complexity",
    "verbosity",
)
"""The order in which the authors of SteerLM write attributes; others stand behind them by name."""


def attribute_text(attributes: Mapping[str, int]) -> str:
    """`helpfulness:4,correctness:4`, in the authors' order."""
    rank = {name: n for n, name in enumerate(ORDER)}
    return ",".join(
        f"{name}:{attributes[name]}"
        for name in sorted(attributes, key=lambda n: (rank.get(n, len(ORDER)), n))
    )


def steered(messages: Messages, attributes: Mapping[str, int]) -> Messages:
    """The chat with the levels in its system message, behind what that says; of a chat without one
    they are all that it says, in place of what the template would.

    Ours: the authors' template has a line of its own at the start of the answer, which other
    templates lack.
    """
    text = attribute_text(attributes)
    if messages and messages[0].role == "system":
        return (
            replace(messages[0], content=f"{messages[0].content}\n{text}".lstrip("\n")),
            *messages[1:],
        )
    return (Message("system", text), *messages)


def parse_attributes(text: str) -> dict[str, int]:
    """`helpfulness=4,verbosity=1` as a table; RecipeError for anything else."""
    found = {}
    for part in text.split(","):
        name, _, level = part.partition("=")
        if not name.strip() or not level.strip().isdecimal() or len(level) > 9:
            raise RecipeError(
                f"--attributes: {part.strip()!r} is not NAME=LEVEL with a whole number; write"
                " helpfulness=4,verbosity=1."
            )
        found[name.strip()] = int(level)
    return found
