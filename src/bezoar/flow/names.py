"""The names of a recipe and of its stages, which are names of folders."""

from collections.abc import Callable, Collection, Container

from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath

MOST_NAME_BYTES = 200
_RESERVED = ("journal.sqlite", "metrics.jsonl", "resolved.json", "recipe.yaml", "report.html")


def check_names(
    name: str, stages: Collection[str], models: Container[str], at: Callable[[KeyPath], str]
) -> None:
    """The recipe and its stages have folders of their names, beside the journal and with more
    before and behind the name."""
    is_short = len(name.encode()) <= MOST_NAME_BYTES
    has_text = bool(name.strip()) and name.isprintable()
    if not has_text or not is_short or "/" in name or name.startswith("."):
        rule = f"up to {MOST_NAME_BYTES} printable bytes, no slash, no dot at its start"
        raise RecipeError(f"{at(('name',))}: a name is a folder's name: {rule}; change it.")
    # journal.sqlite lies beside the run directories, and sqlite puts more behind its name
    if name.lower().startswith(_RESERVED):
        raise RecipeError(f"{at(('name',))}: bezoar has a file named {name}; choose another name.")
    if not stages:
        raise RecipeError(f"{at(('stages',))}: there are no stages; write one.")
    for name in stages:
        where = at(("stages", name))
        if name in models:
            raise RecipeError(f"{where}: a model has the same name; rename the stage.")
        is_word = name.replace("-", "").replace("_", "").isalnum()
        if not is_word or len(name.encode()) > MOST_NAME_BYTES:
            rule = f"letters, digits, - and _, {MOST_NAME_BYTES} bytes at most"
            raise RecipeError(f"{where}: the name of a stage may hold {rule}; rename it.")
