"""Any change of any shipped recipe loads, or ends in one sentence with its file and line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("hypothesis")
from bounded import sentence
from hypothesis import given
from hypothesis import strategies as st

from bezoar.flow.keys import all_keys
from bezoar.flow.plan import make_plan
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir

FOLDER = Path(__file__).parents[2] / "recipes"
TEXTS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.yaml")) if "full" not in path.stem}
VALUES = {name: yaml.safe_load(text) for name, text in TEXTS.items()}

SCRAPS = [
    "", "~", "[", "]", "{", "}", ":", "- ", "&a ", "*a", "<<: *sft", "<<: [*sft, *eval]", "!!binary ", "!!python/name:os.system ", "? ", "|", ">", "%", "@", "`", "#",
    "\t", "\0", "\x1b[2J", "\u202e", "\ufeff", "\u2028", "\x85", '"\\ud800"', "'", '"', "---", "...", ".nan", ".inf", "-.inf", "1e999", "010", "1:30", "1_000", "0x", "yes",
    "2024-01-01", "9" * 5000, "[" * 200, "{a: " * 200, "x" * 300, "~nouser/x", "/dev/zero", "/", "..", "~", "null", "true", "kind: [x]", "kind: null", "name: journal.sqlite",
    "-1", "0", "1e308", "5e-324", "bezoar:", "hub:", "hub:a/b/c", "bezoar:../../setup", "a/b", "é" * 200,
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(SCRAPS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10) | st.sampled_from(["kind", "path", "rows", "<<"]), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def cut_and_pasted(draw: st.DrawFn) -> str:
    """The text of a recipe with pieces taken out, put in, doubled or replaced."""
    text = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    for _ in range(draw(st.integers(1, 4))):
        words = [match.span() for match in re.finditer(r"[^\s,:{}\[\]]+|[,:{}\[\]]|\n *", text)] or [(0, 0)]
        start, end = draw(st.sampled_from(words))
        other = draw(st.sampled_from(words))
        piece = draw(st.sampled_from([text[slice(*other)], *SCRAPS]) | st.text(max_size=5))
        text = text[:start] + piece + text[draw(st.sampled_from([start, end])) :]
    return text


@st.composite
def replaced(draw: st.DrawFn) -> str:
    """A recipe with values replaced, added under a key, or taken away."""
    value: Any = yaml.safe_load(yaml.safe_dump(VALUES[draw(st.sampled_from(sorted(VALUES)))]))
    for _ in range(draw(st.integers(1, 3))):
        node, places = value, []
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
            places.append((node, key))
            node = node[key]
        node, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            node[key] = draw(JSON)
        elif isinstance(node, dict):
            node[draw(st.text(min_size=1, max_size=8) | st.sampled_from(["kind", "rows", "limit", "extra"]))] = draw(JSON)
        else:
            node.pop(key)
        if not value:
            break
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False)


@given(text=st.one_of(cut_and_pasted(), replaced()))
def test_a_changed_recipe_loads_or_is_one_sentence(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BEZOAR_DATA", raising=False)
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    recipes: list[Any] = []
    told = sentence(lambda: recipes.append(load_recipe(path)))
    assert not told or re.match(rf"{re.escape(str(path))}:\d+: ", told), told
    if recipes:
        sentence(lambda: all_keys(recipes[0], set()))
        if "hub:" not in text and "/" not in text:
            sentence(lambda: make_plan(recipes[0], RunDir(tmp_path / "run")))
