"""Names by which a recipe refers to its parts (the type says to which), and to their output."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

RowsRef = Annotated[str, "rows"]
"""The name of a stage whose rows are read."""

ModelRef = Annotated[str, "model"]
"""The name of a model in `models:` or of a training stage."""

RewardRef = Annotated[str, "model", "scores"]
"""The name of a model with a score head: of a training stage whose objective trains one."""

BackendRef = Annotated[str, "backend"]
"""The name of a language model in `backends:`."""

FileRef = Annotated[str, "file"]
"""A file: a path relative to the recipe, `bezoar:NAME` for one that ships with bezoar, or
`package:NAME/PATH` for one of another Python package. Its content is part of the stage's key."""

HELD_OUT = ".held_out"
"""Behind a source's name: the stage with the rows that its key `held_out` holds out."""

CHECKPOINT = "@"
"""Behind a training stage's name, before that of a checkpoint that it kept."""


def unknown(name: str, what: str, names: Iterable[str]) -> str:
    """Half of a sentence: no `what` has this name, which names there are, and the nearest."""
    known = list(names)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    listed = f"the {what.split()[-1]}s are {', '.join(known)}" if known else "there is none"
    end = f"; did you mean {near[0]}?" if near else "."
    return f"no {what} is named {name!r}; {listed}{end}"


_NUMBERED = re.compile(r"(\d{2,})-(.+)", re.DOTALL)


def stage_folders(run_dir: Path) -> list[tuple[str, Path]]:
    """(stage, folder) of every `<nn>-<stage>` in a run directory, in the order of the numbers."""
    if not run_dir.is_dir():
        return []
    matches = [(_NUMBERED.fullmatch(path.name), path) for path in run_dir.iterdir()]
    folders = [(match, path) for match, path in matches if match]
    # by length first: 100 comes after 99
    folders.sort(key=lambda folder: (len(folder[0][1]), folder[1].name))
    return [(match[2], path) for match, path in folders]


_OF_SEED = re.compile(r"(.+)\.seed(-?\d+)", re.DOTALL)


def of_seed(stage: str, seed: int) -> str:
    """The name of a stage's repeat with another seed; no stage of a recipe can have it."""
    return f"{stage}.seed{seed}"


def seed_of(name: str) -> tuple[str, int | None]:
    """The stage that a name of `of_seed` repeats and the seed; the name and None for others."""
    match = _OF_SEED.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)
