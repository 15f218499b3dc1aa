"""What numbers of a recipe may be: refused with line and key, and known to tables and schema."""

from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.explain import find_kinds
from bezoar.flow.recipe import load_recipe
from bezoar.flow.recipe_reference import recipe_schema

RECIPE = """\
name: tiny
models: {{base: {{path: smollm2-135m-instruct}}}}
backends: {{judge: {{kind: endpoint, url: "http://localhost:1", model: m}}}}
stages:
  pairs: {{kind: hh_rlhf, path: "bezoar:preferences_test.jsonl"}}
  measured:
    kind: evaluate
    model: base
    {section}:
      rows: pairs
      {key}
"""


@pytest.mark.parametrize(
    ("section", "key"),
    [
        # rows[:0] would be none, rows[:-1] all but the last
        ("preferences", "limit: 0"),
        ("preferences", "limit: -1"),
        ("overlap", "max_tokens: 0"),
        ("over_rows", "judge_tokens: 0"),
        ("judge_card", "min_kappa: 2.0"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_line(
    section: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(section=section, key=key))
    name, _, value = key.partition(": ")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    place = f"{path}:11: stages.measured.{section}.{name}: must be "
    assert str(error.value).startswith(place)
    assert str(error.value).endswith(f"but is {value}; change the value.")


def test_the_tables_and_the_schema_say_what_a_number_may_be() -> None:
    (kind,) = find_kinds("lamini")
    types = {key.name: key.type for key in kind.keys}
    assert types["topic_share"] == "number ≥ 0 and ≤ 1"
    assert types["num_rows"] == "integer ≥ 1"
    share = recipe_schema()["$defs"]["LaMini"]["properties"]["topic_share"]
    assert (share["minimum"], share["maximum"]) == (0, 1)
