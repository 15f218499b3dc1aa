"""Names and tables that are nearly right lead to what is."""

from pathlib import Path

import pytest

from bezoar.cost import cents, dollars, exactly
from bezoar.errors import RecipeError
from bezoar.flow.recipe import load_recipe
from bezoar.train.objectives import OBJECTIVES
from tests.helpers.command import refused

START = """name: t
models:
  b: {path: x}
stages:
  s: {kind: dolly, path: "bezoar:instructions.jsonl"}
"""


def told(folder: Path, more: str, start: str = START) -> str:
    path = folder / "r.yaml"
    path.write_text(start + more, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    return str(error.value)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_in_place_of_a_stage(name: str, tmp_path: Path) -> None:
    said = told(tmp_path, f"  t: {{kind: {name}, model: b, rows: s}}\n")
    assert f"write `kind: train` and `objective: {{kind: {name}}}`" in said
    assert ":6: stages.t: unknown kind" in said


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_is_no_table(name: str, tmp_path: Path) -> None:
    said = told(tmp_path, f"  t: {{kind: train, model: b, rows: s, objective: {name}}}\n")
    assert ":6: stages.t.objective: a kind stands in a table; " in said
    assert f"; write `objective: {{kind: {name}}}`." in said


def test_other_tables_and_words_that_are_no_kind(tmp_path: Path) -> None:
    assert "write `template: {kind: chatml}`" in told(tmp_path, "template: chatml\n")
    said = told(tmp_path, "  t: {kind: train, model: b, rows: s, objective: magic}\n")
    assert 'must be an object but is "magic"' in said


def test_a_stage_is_not_offered_to_itself(tmp_path: Path) -> None:
    stage = "  dpo: {kind: train, model: %s, rows: s, objective: {kind: sft}}\n"
    assert "the model names are b." in told(tmp_path, stage % "zzz")
    assert "did you mean" not in told(tmp_path, stage % "dpoo")
    start = START.replace("models:\n  b: {path: x}\n", "")
    assert "the model names are none; add one." in told(tmp_path, stage % "zzz", start)


def test_which_kinds_give_comparisons(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "r.yaml"
    stage = "  t: {kind: train, model: b, rows: s, objective: {kind: dpo}}\n"
    path.write_text(START.replace("path: x", f"path: {tiny_model}") + stage)
    said = refused("plan", path)
    assert "s gives chats, and dpo needs comparisons; add a stage that gives them" in said
    assert "best_of_n or attribute_pairs" in said


def test_the_whole_budget(tmp_path: Path) -> None:
    assert "did you mean budget_usd?" in told(tmp_path, "budget: 3\n")


BROKEN = {
    "less": ("  t:\n    kind: train\n   model: b\n", 8, "does not stand below those that begin"),
    "more": ("  t:\n    kind: train\n     model: b\n", 8, "indented further than the one above"),
    "a tab": ("  t:\n\tkind: train\n", 7, "indented with a tab; write spaces"),
    "two keys": ("  t: kind: train\n", 6, "a second `key:` in one line"),
    "no colon": ("  t:\n    kind train\n    rows: s\n", 7, "no `key: value`; add the colon"),
    "a bracket": ("  t: {kind: train\n  u: b}\n", 7, "the bracket that opens in line 6 is not"),
    "a quote": ('  t: "abc\n', 6, "the quotation mark that opens here is not closed"),
    "back by one": (" t:\n   kind: train\n", 6, "lines of one table begin with the same number"),
}


@pytest.mark.parametrize(("more", "line", "what"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_yaml_is_told_in_plain_words(
    more: str, line: int, what: str, tmp_path: Path
) -> None:
    said = told(tmp_path, more)
    assert f"r.yaml:{line}: not valid YAML (" in said
    assert what in said
    assert not any(word in said for word in ("block", "mapping", "scalar", "token", "stream"))


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("smollm@127.0.0.1:8765", "write smollm@http://127.0.0.1:8765, or https://."),
        ("org/m@localhost:80/v1", "write org/m@http://localhost:80/v1, or https://."),
        ("m@my-host.lan:80", "write m@http://my-host.lan:80, or https://."),
        ("127.0.0.1:8765", "write NAME@http://127.0.0.1:8765, or https://."),
    ],
)
def test_a_server_without_http(given: str, fix: str, tmp_path: Path) -> None:
    said = refused("init", given, "--out", tmp_path / "r.yaml")
    assert said == f"bezoar: {given}: the address of a server begins with http://; {fix}\n"


def test_small_amounts_have_two_digits() -> None:
    shown = {0.0: "0.00", 0.000466: "0.00047", 0.0042: "0.0042", 0.05: "0.050", 0.09999: "0.10"}
    shown |= {0.12: "0.12", 3.14159: "3.14", 1e-7: "0.00000010"}
    assert {usd: cents(usd) for usd in shown} == shown
    assert exactly(0.0005).money() == "0.00050"


def test_dollars_of_a_limit_are_plain_decimals() -> None:
    shown = {0.0: "0.00", 1e-5: "0.00001", 2.5e-7: "0.00000025", 0.041: "0.041", 0.005: "0.005"}
    shown |= {0.0999999: "0.10", 0.00012346: "0.0001235", 5.0: "5.00", 12.999: "13.00"}
    shown |= {123456.789: "123456.79", 1.105: "1.105"}
    assert {usd: dollars(usd) for usd in shown} == shown
