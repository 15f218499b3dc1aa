"""The shipped recipes with changed values and damaged bytes: a plan, or one sentence that begins
with the file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bezoar.flow.cache_key import all_keys
from bezoar.flow.model_argument import find_model
from bezoar.flow.plan import make_plan
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from tests.helpers.fuzzing import TEXTS, bounded, changed, damaged, fuzz

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TEXT: dict[str, bytes] = {path.name: path.read_bytes() for path in RECIPES}
VALUES: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXT.items()}
BACKEND = {
    "kind": "endpoint",
    "url": "http://127.0.0.1:9/v1",
    "model": "m",
    "prices": {"input_usd_per_million": 1, "output_usd_per_million": 2},
    "extra": {"top_k": 3},
    "timeout_s": 3,
}
SWAPS = [
    "0",
    "-1",
    ".nan",
    "1e999",
    "010",
    "yes",
    "~",
    "''",
    "[]",
    "{}",
    "[x]",
    "{kind: dolly}",
    "bezoar:questions.jsonl",
    "base",
    "2024-01-01",
    "!!python/name:os.system",
    "&a [*a]",
    "|-",
    "9" * 400,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("fuzz")
    for other in RECIPES[0].parent.iterdir():  # what recipes name beside them
        if other.is_file() and other.suffix != ".yaml":
            shutil.copy(other, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BEZOAR_DATA", raising=False)
        patch.chdir(place)
        yield place


@st.composite
def swapped(draw: st.DrawFn, text: bytes) -> bytes:
    """A recipe in which words behind a colon are others."""
    lines = text.decode().split("\n")
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        parts = lines[place].split(": ")
        if len(parts) > 1:
            parts[draw(st.integers(1, len(parts) - 1))] = draw(st.sampled_from(SWAPS))
            lines[place] = ": ".join(parts)
    return "\n".join(lines).encode()


@pytest.mark.parametrize("how", ["bytes", "words", "values"])
@fuzz(0.035, few=8)
@given(data=st.data())
def test_no_recipe_breaks_the_reader(how: str, data: st.DataObject, folder: Path) -> None:
    name = data.draw(st.sampled_from(sorted(TEXT)))
    if how == "values":
        text = json.dumps(data.draw(changed(VALUES[name]))).encode()
    else:
        text = data.draw(damaged(TEXT[name]) if how == "bytes" else swapped(TEXT[name]))
    path = folder / name
    path.write_bytes(text)
    recipe = None
    with bounded(str(path)):
        recipe = load_recipe(path)
    if recipe:
        with bounded():
            all_keys(recipe)
            make_plan(recipe, RunDir(folder / "runs" / "x"))


@fuzz(0.015, few=10)
@given(value=changed(BACKEND), name=TEXTS)
def test_no_backend_and_no_name_breaks_the_command_line(
    value: Any, name: str, folder: Path
) -> None:
    (folder / "judge.yml").write_text(json.dumps(value))
    with bounded():
        find_model("judge.yml").identity.encode()
    with bounded():
        find_model(name)
