"""Keys that people know from TRL, Axolotl and LLaMA-Factory lead to ours."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import RecipeError
from bezoar.flow import aliases
from bezoar.flow.explain import all_kinds
from bezoar.flow.recipe import load_recipe
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.train.stages import Train

RECIPE = """name: toy
models:
  base:
    path: smollm2-135m-instruct
stages:
  rows: {kind: dolly, path: "bezoar:instructions.jsonl"}
  sft:
    kind: train
    model: base
    rows: rows
    objective: {kind: sft}
"""


def told(folder: Path, more: str) -> str:
    path = folder / "r.yaml"
    path.write_text(RECIPE + more, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        ("learning_rate", "lr"),
        ("learning-rate", "lr"),
        ("num_train_epochs", "epochs"),
        ("num_epochs", "epochs"),
        ("per_device_train_batch_size", "batch_size"),
        ("gradient_accumulation_steps", "batch_size"),
        ("micro_batch_size", "tokens_per_batch"),
        ("max_seq_length", "max_length"),
        ("sequence_len", "max_length"),
        ("cutoff_len", "max_length"),
        ("lora_r", "adapter.r"),
        ("lora_alpha", "adapter.alpha"),
        ("base_model", "model"),
        ("model_name_or_path", "model"),
        ("warmup_steps", "warmup_ratio"),
        ("lr_scheduler_type", "schedule"),
        ("optim", "optimizer"),
        ("max_grad_norm", "clip"),
        ("beta", "objective.beta"),
        ("train_on_inputs", "objective.loss_on"),
        ("val_set_size", "validation"),
        ("gradient_checkpointing", "recompute"),
        ("datasets", "rows"),
    ],
)
def test_a_key_of_another_project_names_ours(other: str, ours: str, tmp_path: Path) -> None:
    message = told(tmp_path, f"    {other}: 1\n")
    assert f"r.yaml:12: stages.sft.{other}: unknown key; did you mean {ours}?" in message
    assert "\n" not in message


def test_the_advice_depends_on_the_table(tmp_path: Path) -> None:
    assert "stages.sft.adapter.lora_r: unknown key; did you mean r?" in told(
        tmp_path, "    adapter: {lora_r: 8}\n"
    )
    assert aliases.our_key("load_in_4bit", ["path", "quantize"]).startswith(
        "did you mean quantize?"
    )
    assert "write `quantize: nf4` beside the model's path" in told(
        tmp_path, "    load_in_4bit: true\n"
    )
    assert "remove the key: rows are always packed" in told(tmp_path, "    packing: true\n")
    # what no other project has is compared with our keys, as before
    assert "did you mean batch_size?" in told(tmp_path, "    batch_siz: 8\n")


@pytest.mark.parametrize(
    ("scheme", "key"),
    [("lamini", "num_rows"), ("orca", "num_rows"), ("evol_instruct", "num_seeds")],
)
def test_rows_of_a_scheme_are_counted_by_its_own_key(scheme: str, key: str, tmp_path: Path) -> None:
    message = told(
        tmp_path, f"  made: {{kind: {scheme}, seeds: rows, teacher: t, rows: {{accepted: 5000}}}}\n"
    )
    assert f"r.yaml:12: stages.made.rows: unknown key; did you mean {key}? (" in message
    assert "{accepted: N} for rows behind the filters" in message


@pytest.mark.parametrize(("kind", "file"), [("csv", "rows.csv"), ("jsonl", "rows.jsonl")])
def test_the_column_of_answers_is_response(kind: str, file: str, tmp_path: Path) -> None:
    message = told(tmp_path, f"  more: {{kind: {kind}, path: {file}, answer: reply}}\n")
    assert "stages.more.answer: unknown key; did you mean response?" in message


def test_every_alias_leads_to_a_key_that_exists() -> None:
    known: set[str] = set()
    for cls in {LoRA, ModelSpec, Train, *(kind.cls for kind in all_kinds())}:
        known |= {field.name for field in dataclasses.fields(cls)}
    for other, keys in aliases._ALIASES.items():
        for key, note in keys:
            assert set(filter(None, key.split("."))) <= known, (other, key)
            assert key or note
        last: Any = keys[-1][0]
        assert not last or last.split(".")[0] != other, other
