"""What the command explains comes from the classes, and the schema takes what the loader takes."""

import copy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from bezoar.chat.templates import ChatML, HubTemplate
from bezoar.errors import RecipeError
from bezoar.flow.explain import Key, Kind, all_kinds, field_docs, find_kinds, type_name
from bezoar.flow.recipe_reference import recipe_schema, with_tables
from bezoar.flow.yaml_document import read_yaml
from bezoar.references import FileRef, RewardRef, RowsRef

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Base:
    rows: RowsRef
    """The rows that
    are read."""
    undescribed: int = 1


@dataclass(frozen=True)
class Toy(Base):
    """Turns rows round. It keeps their order; a line
    that goes on.

        y = x

    Source: arXiv 1234.56789,
    section 3
    Example: {kind: toy, rows: a}
    """

    share: float | None = None
    """A share from 0 to 1."""
    voice: ChatML = field(default_factory=ChatML)
    kind: Literal["toy"] = "toy"


def test_a_kind_is_what_its_docstring_says() -> None:
    kind = Kind("filters", "toy", Toy)
    assert kind.summary == "Turns rows round."
    assert kind.text == "It keeps their order; a line that goes on.\n\n    y = x"
    assert kind.source == "arXiv 1234.56789, section 3"
    assert kind.example == "{kind: toy, rows: a}"
    about_chatml = Kind("", "", ChatML).summary
    assert kind.keys == [
        Key("rows", "stage with rows", "", "The rows that are read."),
        Key("undescribed", "integer", "1", ""),
        Key("share", "number or null", "null", "A share from 0 to 1."),
        Key("voice", "chatml", "{kind: chatml}", about_chatml),
    ]
    assert field_docs(Toy)["voice"] == about_chatml


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (RewardRef, "reward model"),
        (tuple[FileRef, ...], "list of file"),
        (dict[str, float], "table: name -> number"),
        (Literal["a", 1] | None, "a or 1 or null"),
        (Annotated[ChatML | HubTemplate, Field(discriminator="kind")], "table of kind chatml, hub"),
    ],
)
def test_types_are_named_as_in_recipes(hint: Any, name: str) -> None:
    assert type_name(hint) == name


def test_the_command_lists_all_kinds_and_shows_one() -> None:
    def bezoar(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bezoar", "explain", *words]
        return subprocess.run(command, capture_output=True, text=True)

    listed = bezoar()
    assert listed.returncode == 0
    for kind in all_kinds():
        assert f"{kind.name:21}  {kind.summary}" in listed.stdout
    shown = bezoar("chatml").stdout
    assert "system" in shown
    assert "Example: {kind: chatml" in shown
    wrong = bezoar("chatm")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("bezoar: chatm: no such kind; did you mean chatml?")
    assert wrong.stderr.count("\n") == 1


def test_a_name_of_two_kinds_gives_both() -> None:
    assert [kind.category for kind in find_kinds("hub")] == ["sources", "templates"]
    with pytest.raises(RecipeError, match="did you mean regression"):
        find_kinds("regresion")


def test_tables_are_written_between_their_marks() -> None:
    page = "before\n<!-- tables: templates -->\nold\n<!-- end -->\nafter\n"
    new = with_tables(page)
    assert new.startswith("before\n<!-- tables: templates -->\n### `chatml`\n\n")
    assert "old" not in new
    assert new.endswith("\n<!-- end -->\nafter\n")
    assert with_tables(new) == new


CHECKER = Draft202012Validator(recipe_schema())
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_schema(path: Path) -> None:
    assert path.read_text().startswith(
        "# yaml-language-server: $schema=../docs/recipe.schema.json\n"
    )
    recipe = read_yaml(path)[0]
    assert CHECKER.is_valid(recipe)
    first = next(iter(recipe["stages"]))
    for damage in (
        lambda stage: stage.update(limitt=1),
        lambda stage: stage.update(kind="doly"),
        lambda stage: stage.pop("kind"),
        lambda stage: stage.update(limit="many"),
    ):
        damaged = copy.deepcopy(recipe)
        damage(damaged["stages"][first])
        assert not CHECKER.is_valid(damaged)
