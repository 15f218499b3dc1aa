"""Does a SteerLM model say more when it is asked for more? Verbosity 0 against 4 on held-out
prompts.

    BEZOAR_DATA=FOLDER python benchmarks/steering.py [--rows 600] [--epochs 2]

A regression model is trained on the levels that ship with bezoar, labels answers of
databricks-dolly-15k (arXiv 2310.05344, steps 1 and 2), and the 135M model is tuned on them with the
levels in the prompt (step 3). Held-out prompts are then answered greedily under both levels; the
difference in words is tested prompt by prompt. Results go to benchmarks/results/steering.json.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bezoar.chat.attribute_levels import steered
from bezoar.chat.templates import ChatML
from bezoar.data import HelpSteer2
from bezoar.data.dolly import Dolly
from bezoar.evals.stats import paired, score
from bezoar.io import cache_dir
from bezoar.judge.attribute_stages import Label, Steer
from bezoar.judge.heuristics import Form
from bezoar.model.completions import draw_completions
from bezoar.model.spec import LoRA, ModelSpec, Sampling
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.objectives import SFT, Regression
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train

RESULTS = Path(__file__).parent / "results" / "steering.json"
MODEL, LORA = ModelSpec("smollm2-135m-instruct"), LoRA(r=16, alpha=16, dropout=0.0)
LEVELS = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2}


def trained(settings: Train, rows: Any, out: Path) -> Stack:
    """The model after a training stage, which is carried out once."""
    if not (out / "out" / "stats.json").is_file():
        settings.run(
            rows,
            StageInputs(MODEL, [], ChatML(), out / "work", out / "out"),
            progress=Progress(out.name, out / "metrics.jsonl"),
            seed=0,
        )
    return Stack(MODEL, [out / "out" / "adapter"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--epochs", type=float, default=2.0)
    given = parser.parse_args()
    if not os.environ.get("BEZOAR_DATA"):
        sys.exit("BEZOAR_DATA names no folder; the rows are read from there.")
    torch.set_num_threads(1)
    out = cache_dir() / "steering"
    labelled = HelpSteer2("bezoar:attributes_train.jsonl").load().rows
    regression = trained(
        Train(
            "m",
            "rows",
            Regression(),
            LORA,
            lr=1e-3,
            epochs=3,
            batch_size=8,
            max_length=512,
            validation=0.0,
        ),
        labelled,
        out / "regression",
    )
    rows = (
        Dolly(
            str(Path(os.environ["BEZOAR_DATA"]) / "dolly/databricks-dolly-15k.jsonl"),
            shuffle_seed=0,
            limit=2000,
        )
        .load()
        .rows
    )
    rows = (
        Form("rows", max_prompt_words=60, max_words=110, refusals=False, unfinished=False)
        .sift(rows)
        .rows
    )
    held_out, rows = rows[:60], rows[60 : 60 + given.rows]
    context: Any = SimpleNamespace(
        open_model=lambda _: regression, template=ChatML(), progress=Progress()
    )
    rows = Label("rows", "m").label(rows, context).rows
    words: dict[int, list[int]] = {}
    for row in rows:
        words.setdefault(row.meta["attributes"]["verbosity"], []).append(len(row.answer.split()))
    counts = {
        level: {"rows": len(found), "mean_words": statistics.fmean(found)}
        for level, found in sorted(words.items())
    }
    print(counts, flush=True)
    settings = Train(
        "m",
        "rows",
        SFT(loss_on="last"),
        LORA,
        lr=1e-3,
        epochs=given.epochs,
        batch_size=4,
        max_length=384,
        validation=0.0,
    )
    stack = trained(
        settings, Steer("rows").sift(rows).rows, out / f"steerlm-{given.rows}-{given.epochs:g}"
    )
    lengths = []
    for level in (0, 4):
        prompts = [steered(row.prompt, {**LEVELS, "verbosity": level}) for row in held_out]
        answers = draw_completions(
            stack,
            ChatML(),
            prompts,
            Sampling(temperature=0.0, top_p=1.0, max_tokens=192),
            num=1,
            seed=0,
        )
        lengths.append([float(len(one[0][0].split())) for one in answers if one])
        print(level, score("words", lengths[-1]), flush=True)
    gap = paired("words", lengths[0], lengths[1])
    found = {
        "labels": counts,
        "rows": len(rows),
        "epochs": given.epochs,
        "prompts": len(held_out),
        "words": {
            str(level): statistics.fmean(one) for level, one in zip((0, 4), lengths, strict=True)
        },
        "difference": {"mean": gap.difference, "low": gap.low, "high": gap.high, "p": gap.p},
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["difference"], indent=1))


if __name__ == "__main__":
    main()
