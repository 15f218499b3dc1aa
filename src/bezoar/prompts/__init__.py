"""Prompt files: reading them, and filling their placeholders."""

import re
from collections.abc import Iterable
from pathlib import Path

from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import content_hash
from bezoar.reading import read_text

_HEADING = re.compile(r"^(?:\[[^\[\]{}\n]+\]|#{1,6} [^{}\n]+)$", re.MULTILINE)
_CODE_DIGITS = 12


def read_prompt(ref: str, *needs: str) -> str:
    """The text of a prompt file, without white space at its end. RecipeError when a placeholder
    that it `needs` is absent."""
    path = locate_file(ref, Path(), f"prompt {ref}")
    text = read_text(path).rstrip()
    for name in needs:
        if f"{{{name}}}" not in text:
            raise RecipeError(
                f"{path}: the prompt has no {{{name}}}, the place of what it is about; add it."
            )
    return text


def read_list(ref: str) -> list[str]:
    """The lines of a text file that are not blank."""
    return [line.strip() for line in read_prompt(ref).split("\n") if line.strip()]


def fill(text: str, /, **values: str) -> str:
    """`text` with every `{name}` of `values` filled in one pass, so that braces in a value stay as
    they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def seal(text: str, /, **texts: str) -> str:
    """`text` filled with `texts` that a judge reads and others wrote, so that none of them can pass
    for more than it is.

    `{end}` becomes a line `[end CODE]`; where `text` has no `{end}`, each of `texts` is followed by
    one. CODE is a hash of `text` and of all `texts`: every request has its own, the same request
    always the same one, so that its journal key stays. Whoever writes one of the texts cannot know
    it, since it changes with each of their characters, and one that holds it by chance moves it on.
    A heading of `text`, such as "[Answer A]", that stands in one of them gets a backslash.
    """
    names = "|".join(map(re.escape, texts))
    template = text if "{end}" in text else re.sub(rf"\{{({names})\}}", r"{\1}\n\n{end}", text)
    whole, number = "\n".join(texts.values()).casefold(), 0
    while (code := content_hash(text, texts, number)[:_CODE_DIGITS]) in whole:
        number += 1
    headings = _HEADING.findall(text)
    return fill(
        template,
        end=f"[end {code}]",
        **{name: without_headings(value, headings) for name, value in texts.items()},
    )


def without_headings(text: str, headings: Iterable[str]) -> str:
    """`text` with a backslash before each of `headings` in it."""
    for heading in headings:
        text = text.replace(heading, f"\\{heading}")
    return text
