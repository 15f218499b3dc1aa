"""The file that a recipe key names: one of the package, a split of a Hub dataset, or a path."""

from importlib.util import find_spec
from os.path import isfile
from pathlib import Path

from bezoar.data.hub_tasks import task_row
from bezoar.data.locate import DataFile, is_hub_id, locate
from bezoar.errors import DataError, RecipeError, brief, first_line
from bezoar.io import cache_dir, write_jsonl

HUB_PREFIX, PACKAGE_PREFIX = "hub:", "package:"
_PACKAGE = Path(__file__).parents[1]


def locate_file(ref: str, folder: Path, place: str) -> Path:
    """The file behind `bezoar:NAME` (a prompt or seed file of bezoar), `package:NAME/PATH` (a file
    of another Python package), `hub:owner/name/[subset/]split`, or a path relative to `folder`.

    RecipeError names `place` when there is no such file.
    """
    if ref.startswith("bezoar:"):
        name = ref.removeprefix("bezoar:")
        for path in (_PACKAGE / "prompts" / name, _PACKAGE / "seeds" / name):
            if isfile(path):
                return path
        raise RecipeError(f"{place}: bezoar has no file {brief(name)}; name another or a path.")
    if ref.startswith(HUB_PREFIX):
        return hub_file(ref)
    if ref.startswith(PACKAGE_PREFIX):
        return _package_file(ref, place)
    path = folder / ref
    if not isfile(path):
        raise RecipeError(f"{place}: no such file: {brief(str(path))}; check the path.")
    return path


def _package_file(ref: str, place: str) -> Path:
    """A file of an installed package, of which no code is run."""
    name, _, path = ref.removeprefix(PACKAGE_PREFIX).partition("/")
    # of a dotted name the packages above it would be imported
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        what = f"no package {brief(name)} is installed"
        raise RecipeError(f"{place}: {what}; install it, or name the file by its path.")
    files = [Path(folder) / path for folder in spec.submodule_search_locations]
    found = next((file for file in files if isfile(file)), None)
    if found is None:
        raise RecipeError(f"{place}: the package {name} has no file {brief(path)}; check the path.")
    return found


def mirrored(ref: str) -> Path | None:
    """The file in the mirror that BEZOAR_DATA names, if the dataset is read from there."""
    return _hub_split(ref).path


def hub_file(ref: str) -> Path:
    """The rows of a Hub split as JSON Lines, from the mirror or fetched once into the cache; known
    test sets get the columns that evaluation reads."""
    split = _hub_split(ref)
    if split.path is not None:
        return split.path
    path = hub_cache(ref)
    # fetched once: the content of this file is part of the keys of stages that read it
    if not path.exists():
        rows = [task_row(row, at) for at, row in split.rows()]
        try:
            write_jsonl(path, rows)
        except (TypeError, UnicodeEncodeError) as error:
            fault = f"a row holds what JSON cannot ({first_line(error)})"
            raise DataError(f"{ref}: {fault}; take another split or a file.") from None
    return path


def hub_cache(ref: str) -> Path:
    """Where the rows of a Hub split lie once they were fetched."""
    return cache_dir() / "hub" / (ref.removeprefix(HUB_PREFIX).replace("/", "--") + ".jsonl")


def _hub_split(ref: str) -> DataFile:
    parts = ref.removeprefix(HUB_PREFIX).split("/")
    dataset, subset, split = "/".join(parts[:2]), "/".join(parts[2:-1]), parts[-1]
    # the cache names a file after it
    is_short = len(ref) <= 200 and ref.isprintable()
    if not (len(parts) in (3, 4) and all(parts) and is_hub_id(dataset) and is_short):
        forms = "hub:owner/name/split or hub:owner/name/subset/split"
        raise DataError(f"{brief(ref)}: a file of the Hub is written {forms}; change it.")
    files = locate(dataset, Path(), subset=subset, split=split)
    if len(files) != 1:
        raise DataError(f"{brief(ref)}: these are {len(files)} files; name one of them.")
    return files[0]
