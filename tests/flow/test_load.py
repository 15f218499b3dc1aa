"""Wrong recipes get one sentence with file, line, key and what to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from bezoar.errors import RecipeError
from bezoar.flow.recipe import load_recipe
from bezoar.flow.references import refs
from bezoar.flow.yaml_document import read_yaml
from bezoar.flow.yaml_loader import build
from bezoar.references import FileRef, RowsRef


@dataclass(frozen=True)
class Loud:
    volume: float = 1.0
    kind: Literal["loud"] = "loud"


@dataclass(frozen=True)
class Soft:
    prompt: FileRef = "bezoar:x.txt"
    kind: Literal["soft"] = "soft"

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt is empty; name a file")


@dataclass(frozen=True)
class Toy:
    name: str
    rows: RowsRef = ""
    voice: Annotated[Loud | Soft, Field(discriminator="kind")] = field(default_factory=Loud)
    targets: tuple[str, ...] = ()
    limit: int | None = None


def load(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    value, lines = read_yaml(path)
    return build(Toy, value, path=path, lines=lines)


def test_a_right_recipe_becomes_the_component(tmp_path: Path) -> None:
    toy = load(
        tmp_path, "name: a\nrows: x\nvoice: {kind: loud, volume: 1e-4}\ntargets: [q, k]\nlimit: 3\n"
    )
    assert toy == Toy("a", "x", Loud(1e-4), ("q", "k"), 3)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("name: a\nlimitt: 3\n", "r.yaml:2: limitt", "did you mean limit?"),
        (
            "name: a\nvoice: {kind: loud,\n  volum: 2}\n",
            "r.yaml:3: voice.volum",
            "did you mean volume?",
        ),
        ("name: a\nvoice: {kind: lound}\n", "r.yaml:2: voice", "did you mean loud?"),
        ("name: a\nvoice: {volume: 2}\n", "r.yaml:2: voice", "kind is missing"),
        ("name: a\nlimit: many\n", "r.yaml:2: limit", 'must be a valid integer but is "many"'),
        ("name: 3\n", "r.yaml:1: name", "must be a valid string"),
        ("limit: 3\n", "r.yaml:1: name", "needed"),
        ("name: a\nname: b\n", "r.yaml:2", "stands twice"),
        ("name: [a\n", "r.yaml:2", "not valid YAML"),
        ("name: a\nvoice: {kind: soft, prompt: ''}\n", "r.yaml:2: voice", "prompt is empty"),
        ("name: a\ntargets: [q, 7]\n", "r.yaml:2: targets.1", "must be a valid string"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert where in message
    assert what in message
    assert "\n" not in message


def test_a_budget_is_not_less_than_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nbudget_usd: -0.5\nstages: {}\n", encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"r.yaml:2: budget_usd: must be greater than or equal to 0 but is -0.5"
    ):
        load_recipe(path)


def test_merge_keys_carry_over(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(path)[0]["b"] == {"x": 1, "y": 3}


def test_references_are_found_by_type() -> None:
    found = list(refs(Toy("a", rows="seeds", voice=Soft())))
    assert [(r.path, r.kind, r.name) for r in found] == [
        ("rows", "rows", "seeds"),
        ("voice.prompt", "file", "bezoar:x.txt"),
    ]


RECIPE = """name: toy
models:
  base: {path: smollm2-135m-instruct}
stages:
  rows: {kind: dolly, path: bezoar:instructions.jsonl}
  sft: {kind: train, model: base, rows: rows, objective: {kind: sft}}
  scored: {kind: train, model: base, rows: rows, objective: {kind: regression}}
  ppo:
    kind: ppo
    model: sft
    reward: %s
    rows: rows
"""


def test_a_reward_must_be_a_model_that_gives_scores(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE % "scored")
    assert load_recipe(file).stages["ppo"].reward == "scored"
    file.write_text(RECIPE % "sft")
    with pytest.raises(RecipeError, match=r"r.yaml:11: stages.ppo.reward: sft is no reward model"):
        load_recipe(file)


EVAL = (
    "  eval: {kind: evaluate, model: sft, preferences: {rows: rows}, contamination: {rows: [rows,"
    " '']}}\n"
)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        (
            "rows: rows,",
            "rows: [rows, rows],",
            "r.yaml:6: stages.sft.rows: one stage is named here,"
            " not a list; name one stage; train on one after the other",
        ),
        ("path: smollm2-135m-instruct", "path: [a]", "must be a valid string but is"),
    ],
)
def test_what_is_written_short_or_as_a_list_is_told(
    before: str, after: str, where: str, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text((RECIPE % "scored").replace(before, after))
    with pytest.raises(RecipeError) as told:
        load_recipe(file)
    assert where in str(told.value)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("model: sft", "model: ''", "stages.ppo.model: no model is named ''"),
        ("model: sft", "model: |-", "stages.ppo.model: no model is named ''"),
        ("    rows: rows", "    rows: ''", "stages.ppo.rows: no stage with rows is named ''"),
        ("scored\n", "''\n", "stages.ppo.reward: no model is named ''"),
        (
            "stages:\n",
            f"stages:\n{EVAL}",
            "stages.eval.contamination.rows.1: no stage with rows is named ''",
        ),
    ],
)
def test_a_name_that_is_needed_is_not_empty(
    tmp_path: Path, before: str, after: str, where: str
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text((RECIPE % "scored").replace(before, after))
    with pytest.raises(RecipeError, match=where):
        load_recipe(file)
