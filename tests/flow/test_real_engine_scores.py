"""Evaluations whose answers the real vLLM draws, where BEZOAR_VLLM names its command."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bezoar.io import read_json
from tests.helpers.command import bezoar

DATA = os.environ.get("BEZOAR_DATA", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("BEZOAR_VLLM" not in os.environ, reason="BEZOAR_VLLM names no vLLM"),
    pytest.mark.skipif(not DATA, reason="BEZOAR_DATA names no folder"),
]
RECIPE = f"""
name: scored
template: {{kind: hermes}}
models: {{base: {{path: smollm2-135m-instruct, dtype: float32}}}}
backends: {{judge: {{kind: local, model: smollm2-135m-instruct, dtype: float32}}}}
stages:
  seeds: {{kind: dolly, path: "bezoar:instructions.jsonl", limit: 2}}
  sft: {{kind: train, model: base, rows: seeds, objective: {{kind: sft}}, validation: 0,
    batch_size: 2, max_steps: 1, max_length: 256, lr: 0.001}}
  scores:
    kind: evaluate
    model: sft
    mt_bench: {{judge: judge, verdict: logprob, questions: asked.jsonl, max_tokens: 16}}
    win_rate: {{judge: judge, verdict: logprob, against: base, questions: asked.jsonl,
      max_tokens: 16}}
    ifeval: {{file: {DATA}/eval/ifeval.jsonl, limit: 2, max_tokens: 24}}
    function_calling: {{bfcl: [{DATA}/bfcl/BFCL_v4_simple_python.json], limit: 2, max_tokens: 24}}
"""
ENGINE = "engine: {kind: vllm, flags: {max-model-len: 2048, enforce-eager: true, max-num-seqs: 8}}"


def test_an_engine_changes_no_score(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    # drawn at temperature 0: samplers that differ draw other answers, of the same distribution
    turns = ("Name the colours of this flag: red, white.", "Now backwards.")
    asked = [{"question_id": i, "category": "extraction", "turns": turns[i:]} for i in (0, 1)]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (tmp_path / "here.yaml").write_text(RECIPE)
    (tmp_path / "there.yaml").write_text(RECIPE + ENGINE)
    bezoar("run", tmp_path / "here.yaml", "--out", here / "run")
    # the training is the same, and its files need not be made again
    shutil.copytree(here, there)
    bezoar("run", tmp_path / "there.yaml", "--out", there / "run")
    assert list((there / "run").glob("vllm-*.log"))
    [ours], [theirs] = ([*place.glob("run/*-scores")] for place in (here, there))
    assert measured(theirs) == measured(ours)
    # and outside of the recipe
    (tmp_path / "engine.yaml").write_text(ENGINE.removeprefix("engine: "))
    ifeval = ("--ifeval", f"{DATA}/eval/ifeval.jsonl", "--limit", 2, "--max-tokens", 24)
    alone = tmp_path / "alone"
    how = ("--engine", tmp_path / "engine.yaml", "--out", alone)
    bezoar("eval", f"{here / 'run'}:sft", *ifeval, *how)
    items = [line for line in measured(ours)[1].splitlines() if '"IFEval' in line]
    assert items
    assert measured(alone)[1].splitlines() == items
    assert (theirs / "key.json").read_bytes() != (ours / "key.json").read_bytes()


def measured(stage: Path) -> Any:
    """All scores and the items below them."""
    return read_json(stage / "scores.json")["scores"], (stage / "items.jsonl").read_text()
