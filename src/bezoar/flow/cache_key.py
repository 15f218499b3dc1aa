"""What a stage's output depends on, as a flat table of parts, and the key that hashes it."""

import dataclasses
import json
from os.path import abspath, isdir, isfile
from pathlib import Path
from typing import Any

from bezoar import __version__
from bezoar.data.files import HUB_PREFIX, locate_file, mirrored
from bezoar.errors import DataError
from bezoar.flow.acceptance import accepting
from bezoar.flow.engine_key import asks_engine, rolls_out
from bezoar.flow.recipe import Recipe
from bezoar.io import cached_hash, content_hash, file_hash
from bezoar.model.spec import ModelSpec
from bezoar.reading import user_path

Parts = dict[str, str]
ADAPTER_HOLDS, WHOLE_STACK = "adapter holds", "the whole stack"
"""The part of a training stage's key that says what its adapter's folder holds: in runs of older
versions it was the stage's own adapter alone, without those below it."""
_HASHED = {
    "content ": "content",
    "language model ": "language model",
    "stage ": "stage it reads",
    "model ": "model",
}
"""How the text of a part begins in key.json that holds a hash, and what the hash is of."""


def stage_parts(recipe: Recipe, name: str, keys: dict[str, str]) -> Parts:
    """Every part of a stage's key: settings, files' content, keys of what it reads, the version.

    `keys` holds the keys of the stages before it.
    """
    stage, parts = recipe.stages[name], {"bezoar": __version__, "seed": str(recipe.seed_of(name))}
    references = {ref.path: ref for ref in recipe.inputs(name)}
    # 1) Each setting as its JSON text. A name counts as what it stands for: renaming a backend
    # runs nothing again, and a change behind its name does.
    for path, value in _flat(stage):
        ref = references.get(path)
        # they refuse a file, and change no row; where a training runs changes no weight
        if path.startswith("limits.") or path.partition(".")[0] == "launch":
            continue
        if ref is None:
            parts[path] = value
        elif ref.name.startswith(HUB_PREFIX) and mirrored(ref.name) is None:
            parts[path] = ref.name  # not fetched to find the key
        elif ref.kind == "file":
            where = f"{recipe.path}: stages.{name}.{path}"
            parts[path] = "content " + _content(locate_file(ref.name, recipe.path.parent, where))
        elif ref.kind == "backend":
            parts[path] = "language model " + recipe.backends[ref.name].identity
        elif ref.name in keys:
            parts[path] = f"stage {ref.name} {keys[ref.name]}"
        else:
            parts[path] = "model " + _spec_hash(recipe.models[ref.name])
    # 2) The template, for the stages that render rows: others stay when it changes.
    if stage.renders:
        parts.update({f"template.{path}": value for path, value in _flat(recipe.template)})
        # an older bezoar made other tokens of some texts, and the key must tell
        parts["template.tokens"] = "those of the whole text"
    # 3) Who draws the answers of models, where that is not this process.
    if recipe.engine and asks_engine(stage):
        # what has no room stops a training before its first answer
        room = "max-model-len" if rolls_out(stage) else ""
        settings = {name: value for name, value in recipe.engine.settings.items() if name != room}
        parts["engine"] = json.dumps([recipe.engine.kind, settings])
    if stage.gives == "model":
        parts[ADAPTER_HOLDS] = WHOLE_STACK
    # 4) Rows that filters behind it count depend on these.
    chain = accepting(recipe.stages, name)
    before = {**keys, **dict.fromkeys([name, *chain], "")}
    for number, behind in enumerate(chain, 1):
        inner = stage_parts(recipe, behind, before)
        own = {p: v for p, v in inner.items() if p not in ("bezoar", "seed", "rows")}
        parts.update({f"accepted by filter {number}: {path}": own[path] for path in own})
    # 5) Files that no key names: those of a folder, and prompts that ship with bezoar.
    for file in stage.files():
        named = Path(abspath(file))  # the same however the recipe's path was written
        parts[f"file {named.parent.name}/{named.name}"] = "content " + _content(file)
    return parts


def all_keys(recipe: Recipe) -> tuple[dict[str, str], dict[str, Parts]]:
    """The key and the parts of every stage."""
    keys: dict[str, str] = {}
    parts: dict[str, Parts] = {}
    for name in recipe.stages:
        parts[name] = stage_parts(recipe, name, keys)
        keys[name] = content_hash(parts[name])
    return keys, parts


def _flat(value: Any, at: str = "") -> list[tuple[str, str]]:
    """(dotted path, JSON text) of every leaf of a component."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, dict):
        pairs = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        pairs = [(str(i), v) for i, v in enumerate(value)]
    else:
        return [(at, json.dumps(value))]
    return [
        leaf for name, inner in pairs for leaf in _flat(inner, f"{at}.{name}".removeprefix("."))
    ]


def _spec_hash(spec: ModelSpec) -> str:
    """A model by its settings and, where it is a local folder, its files."""
    # a model of the Hub is known by its name: nothing is fetched to find a key
    folder = user_path(spec.path)
    if isdir(folder) and any(folder.iterdir()) and not isfile(folder / "config.json"):
        advice = "name a folder that a model was saved to"
        raise DataError(f"model {spec.path}: the folder has no config.json; {advice}.")
    # what stands for nothing is left out, so that keys from before it was there stay
    settings = {name: value for name, value in dataclasses.asdict(spec).items() if value != ()}
    return content_hash(settings, _content(folder) if isdir(folder) else "")


def _content(path: Path) -> str:
    """The hash of a file or folder; a large one's is kept while names, sizes and times stay."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise DataError(f"{path}: no such file; check the path.")
    return file_hash(path) if sum(f.stat().st_size for f in files) < 1 << 24 else cached_hash(path)


def changed(old: Parts, new: Parts) -> list[str]:
    """What differs between two tables of parts, a line each."""
    lines = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path, "absent"), new.get(path, "absent")
        if before == after:
            continue
        # key.json keeps texts only. Settings are JSON there, which begins with none of these words,
        # so the beginning tells what a part is of. A hash says nothing to people: where both are
        # one, only what it is of is named.
        kinds = [kind for kind in _HASHED if before.startswith(kind) and after.startswith(kind)]
        what = f"the {_HASHED[kinds[0]]} changed" if kinds else f"{before} -> {after}"
        lines.append(f"{path}: {what}" + (f" ({after.split()[1]})" if kinds == ["stage "] else ""))
    return lines
