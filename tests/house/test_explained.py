"""Every recipe key and kind explains itself, and the files made from that are current."""

from pathlib import Path

import pytest

from bezoar.flow.explain import Kind, all_kinds
from bezoar.flow.recipe_reference import schema_text, with_tables
from bezoar.flow.yaml_document import read_yaml
from bezoar.flow.yaml_loader import build

DOCS = Path(__file__).parents[2] / "docs"
RENEW = "out of date; run `make docs` (python -m bezoar.flow.recipe_reference docs)"


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: f"{kind.category}-{kind.name}")
def test_a_kind_explains_itself(kind: Kind, tmp_path: Path) -> None:
    assert kind.summary.endswith("."), "the docstring begins with one sentence"
    assert not [key.name for key in kind.keys if not key.text], "keys without a text below them"
    if kind.category == "settings":
        return
    path = tmp_path / "example.yaml"
    path.write_text(kind.example, encoding="utf-8")
    value, lines = read_yaml(path)
    assert value is not None, "the docstring has a line Example:"
    built = build(kind.cls, value, path=path, lines=lines)
    assert getattr(built, "kind", kind.name) in (kind.name, "jsonl")


def test_the_tables_of_recipes_are_current() -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert page == with_tables(page), RENEW
    for kind in all_kinds():
        assert f"<!-- tables: {kind.category} -->" in page


def test_the_schema_is_current() -> None:
    shipped = (DOCS / "recipe.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), RENEW
