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
    """The text of a prompt file. RecipeError if a placeholder that it `needs` is absent."""
    path = locate_file(ref, Path(), f"prompt {ref}")
    text = read_text(path).rstrip()
    for name in needs:
        if f"{{{name}}}" not in text:
            raise RecipeError(f"{path}: the prompt has no {{{name}}}; add it.")
    return text


def read_list(ref: str) -> list[str]:
    """The lines of a text file that are not blank."""
    return [line.strip() for line in read_prompt(ref).split("\n") if line.strip()]


def fill(text: str, /, **values: str) -> str:
    """`text` with every `{name}` of `values` filled in one pass, so that braces in a value stay as
    they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def seal(text: str, /, **texts: str) -> str:
    """`text` filled with `texts` that others wrote and a judge reads, so that none of them can pass
    for an instruction or another text: `{end}` becomes a line `[end CODE]`."""
    # 1) A prompt that does not say where a text ends has a mark after each of them.
    names = "|".join(map(re.escape, texts))
    template = text if "{end}" in text else re.sub(rf"\{{({names})\}}", r"{\1}\n\n{end}", text)
    # 2) The code is a hash of the prompt and all texts: nobody who writes a text can know it, since
    # it changes with each character, and one that holds it by chance moves it on. The same request
    # always has the same one, so that its key in the journal stays.
    whole, number = "\n".join(texts.values()).casefold(), 0
    while (code := content_hash(text, texts, number)[:_CODE_DIGITS]) in whole:
        number += 1
    # 3) A heading of the prompt, such as "[Answer A]", in one of the texts gets a backslash.
    headings = _HEADING.findall(text)
    escaped = {name: without_headings(value, headings) for name, value in texts.items()}
    return fill(template, end=f"[end {code}]", **escaped)


def without_headings(text: str, headings: Iterable[str]) -> str:
    """`text` with a backslash before each of `headings` in it."""
    for heading in headings:
        text = text.replace(heading, f"\\{heading}")
    return text
