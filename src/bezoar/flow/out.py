"""Where a verb may write its results: at a new place, or over what the same verb wrote; never over
its input, never into a run."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bezoar.chat.types import Chat
from bezoar.errors import DataError, RecipeError
from bezoar.io import read_jsonl

_OF_AN_EVALUATION = re.compile(
    r"journal\.sqlite.*|items\.jsonl|tests\.json|parts-[0-9a-f]+|\.(scores|items|tests)\.jsonl?\..*"
)


def check_place(out: Path, inputs: Iterable[Path] = ()) -> None:
    """RecipeError if `out` is, holds or lies within an input, or lies within a run directory."""
    advice = "name another place with --out"
    if any("\ud800" <= letter <= "\udfff" for letter in str(out)):
        raise RecipeError(f"{out}: the name is not UTF-8, which Parquet files need; {advice}.")
    try:
        real = out.resolve()
    except RuntimeError:
        raise RecipeError(f"{out}: links that lead in a circle; {advice}.") from None
    if real.exists() and not out.exists():  # x/../y is y as soon as x is made
        what = f"this leads to {real} through a folder that is not there"
        raise RecipeError(f"{out}: {what}; {advice}.")
    # a run directory holds what a run wrote, nothing else: reports and keys rely on it
    for folder in real.parents:
        if folder.exists() and not folder.is_dir():
            raise RecipeError(f"{out}: {folder} is a file, not a folder; {advice}.")
        if is_run_dir(folder):
            raise RecipeError(f"{out}: this lies in the run directory {folder}; {advice}.")
    for path in filter(Path.exists, inputs):
        if real.is_relative_to(path.resolve()) or path.resolve().is_relative_to(real):
            raise RecipeError(f"{out}: {path}, which is read, would be written over; {advice}.")


def check_folder(out: Path) -> None:
    """RecipeError when `out` is no folder, or a run directory."""
    if out.is_symlink() and not out.exists():
        raise RecipeError(f"{out}: a link to what is not there; name a folder with --out.")
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: a file; name a folder with --out.")
    if is_run_dir(out):
        what = "this is a run directory, which only a recipe writes"
        raise RecipeError(f"{out}: {what}; name another folder with --out.")


def check_evaluation(out: Path, inputs: Iterable[Path] = ()) -> None:
    """RecipeError unless `out` is new or empty, or holds an evaluation, finished or begun."""
    check_folder(out)
    check_place(out, inputs)
    if out.is_dir() and not (out / "scores.json").is_file():
        names = sorted(path.name for path in out.iterdir())
        others = [name for name in names if not _OF_AN_EVALUATION.fullmatch(name)]
        if others:
            what = f"the folder is not empty ({others[0]}) and holds no evaluation"
            raise RecipeError(f"{out}: {what}; name another with --out.")


def check_file(out: Path, inputs: Iterable[Path] = ()) -> None:
    """RecipeError when `out` is a folder or a link to nothing."""
    check_place(out, inputs)
    if out.is_dir() or (out.is_symlink() and not out.exists()):
        what = "folder" if out.is_dir() else "link to what is not there"
        raise RecipeError(f"{out}: a {what}; name a file with --out.")


def check_new(out: Path, inputs: Iterable[Path] = ()) -> None:
    """RecipeError unless nothing is at `out`."""
    check_place(out, inputs)
    if out.exists() or out.is_symlink():
        what = "folder" if out.is_dir() else "file"
        raise RecipeError(f"{out}: the {what} is there already; name another with --out.")


def is_run_dir(folder: Path) -> bool:
    """Whether a recipe was carried out in `folder`."""
    return (folder / "resolved.json").is_file()


def is_revision(out: Path, answers: Sequence[Chat]) -> bool:
    """Whether `out` holds revisions of these answers, made here."""
    try:
        first = [row["first"] for _, row in read_jsonl(out) if "iterations" in row]
    except (DataError, KeyError):
        return False
    return first == [chat.answer for chat in answers]
