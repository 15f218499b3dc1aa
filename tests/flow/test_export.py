"""`bezoar export`: a stack of stages as one folder, compared with the stack before it is
written."""

import json
from pathlib import Path

import pytest

from bezoar.errors import RecipeError, TrainingError
from bezoar.flow import export
from tests.helpers.command import bezoar


def test_a_stack_becomes_one_folder_that_agrees_with_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {i}"},
                {"role": "assistant", "content": f"it is {i}"},
            ]
        }
        for i in range(6)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(f"""
name: small
template: {{kind: chatml}}
models: {{base: {{path: {tiny_model}, dtype: float32}}}}
stages:
  rows: {{kind: jsonl, path: rows.jsonl}}
  one: &sft {{kind: train, model: base, rows: rows, objective: {{kind: sft}}, lr: 0.02, max_steps: 2, validation: 0}}
  two: {{<<: *sft, model: one}}
""")  # noqa: E501
    bezoar("run", "recipe.yaml")
    told = bezoar("export", "runs/small", "-m", "two", "--out", "merged", "--check")
    assert "merged: merged; against the stack: mean KL" in told
    assert "same top token 100.00%" in told
    assert (Path("merged") / "config.json").is_file()
    assert "not compared" in bezoar(
        "export", "runs/small", "-m", "two", "--out", "unchecked", "--no-check"
    )
    for words, sentence in (
        (("two", "merged"), "there already"),
        (("base", "other"), "base model"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            bezoar("export", "runs/small", "-m", words[0], "--out", words[1])
    monkeypatch.setattr(export, "MAX_MEAN_KL", -1.0)
    with pytest.raises(TrainingError, match="other: not written"):
        bezoar("export", "runs/small", "-m", "two", "--out", "other")
    assert not Path("other").exists()
