"""The two files of docs/ that are made from the classes: the tables of recipes.md and
recipe.schema.json. `make docs` writes both."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bezoar.flow.explain import Key, Kind, all_kinds, field_docs
from bezoar.flow.recipe import RecipeKeys
from bezoar.flow.yaml_loader import forbid_extra, reachable_classes

_TABLES = re.compile(r"(<!-- tables: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole recipe. What depends on several keys at once is
    checked only when the recipe is loaded."""
    forbid_extra(RecipeKeys)
    schema = TypeAdapter(RecipeKeys).json_schema()
    classes = {cls.__name__: cls for cls in reachable_classes(RecipeKeys)}
    # pydantic knows nothing of the texts below fields, and takes `kind` for optional
    for name, table in [("RecipeKeys", schema), *schema["$defs"].items()]:
        _describe(classes[name], table)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_noise(schema)}


def _describe(cls: type, table: dict[str, Any]) -> None:
    table["description"] = Kind("", "", cls).summary
    for name, text in field_docs(cls).items():
        if text:
            table["properties"][name]["description"] = text
    if "kind" in table["properties"]:
        table["required"] = [*table.get("required", []), "kind"]


def _without_noise(value: Any) -> Any:
    """Without titles, which repeat the names, and `discriminator`, which is OpenAPI's."""
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if not isinstance(value, dict):
        return value
    noise = {"discriminator"} | ({"title"} if isinstance(value.get("title"), str) else set())
    return {name: _without_noise(inner) for name, inner in value.items() if name not in noise}


def with_tables(text: str) -> str:
    """A Markdown text with new tables between its marks; the prose around them stays."""
    return _TABLES.sub(lambda match: f"{match[1]}{_tables(match[2])}\n{match[3]}", text)


def _tables(category: str) -> str:
    """A part for each kind: what it does, its keys, an example. Keys that all kinds share come
    first, once."""
    kinds = [kind for kind in all_kinds() if kind.category == category]
    shared = [key for key in kinds[0].keys if all(key in kind.keys for kind in kinds)]
    if len(kinds) == 1:
        shared = []
    parts = [f"All of them have:\n\n{_table(shared)}"] if shared else []
    for kind in _together(kinds):
        own = [key for key in kind.keys if key not in shared]
        example = f"Example: `{kind.example}`" if kind.example else ""
        source = f"Source: {kind.source}" if kind.source else ""
        texts = [f"### {kind.name}", kind.summary, kind.text, _table(own), source, example]
        parts += filter(None, texts)
    return "\n\n".join(parts)


def _together(kinds: list[Kind]) -> list[Kind]:
    """One kind for each class, with the names of all kinds that it stands for."""
    names: dict[type, list[str]] = {}
    for kind in kinds:
        names.setdefault(kind.cls, []).append(f"`{kind.name}`")
    return [Kind(kinds[0].category, ", ".join(own), cls) for cls, own in names.items()]


def _table(keys: list[Key]) -> str:
    if not keys:
        return ""
    rows = [
        (f"`{key.name}`", key.type, f"`{key.default}`" if key.default else "needed", key.text)
        for key in keys
    ]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *lines])


def schema_text() -> str:
    """The JSON Schema as a file's text."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def write_files(docs: Path) -> None:
    """Write both files anew."""
    page = docs / "recipes.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    (docs / "recipe.schema.json").write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
