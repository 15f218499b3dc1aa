"""Prompt files: where they lie, and filling their placeholders."""

import re
from os.path import isfile
from pathlib import Path

from bezoar.data.hub_file import PREFIX, hub_file
from bezoar.errors import RecipeError, brief
from bezoar.io import read_text

_PACKAGE = Path(__file__).parent
_SEEDS = _PACKAGE.parent / "seeds"


def locate_file(ref: str, folder: Path, place: str) -> Path:
    """The file that `ref` names: `bezoar:NAME` among the package's prompts and seeds, `hub:owner/name/[subset/]split`, else
    a path relative to `folder`.

    RecipeError names `place` when there is no such file.
    """
    if ref.startswith("bezoar:"):
        name = ref.removeprefix("bezoar:")
        found = [base / name for base in (_PACKAGE, _SEEDS) if isfile(base / name)]
        if not found:
            raise RecipeError(f"{place}: no file {brief(name)} ships with bezoar; name one that does or a path.")
        return found[0]
    if ref.startswith(PREFIX):
        return hub_file(ref)
    path = folder / ref
    if not isfile(path):
        raise RecipeError(f"{place}: no such file: {brief(str(path))}; check the path.")
    return path


def read_prompt(ref: str, *needs: str) -> str:
    """The text of a prompt file, without white space at its end. RecipeError when a placeholder that it `needs` is absent."""
    path = locate_file(ref, Path(), f"prompt {ref}")
    text = read_text(path).rstrip()
    for name in needs:
        if f"{{{name}}}" not in text:
            raise RecipeError(f"{path}: the prompt has no {{{name}}}, the place of what it is about; add it.")
    return text


def read_list(ref: str) -> list[str]:
    """The lines of a text file that are not blank."""
    return [line.strip() for line in read_prompt(ref).split("\n") if line.strip()]


def fill(text: str, /, **values: str) -> str:
    """`text` with every `{name}` of `values` filled in one pass, so that braces in a value stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)
