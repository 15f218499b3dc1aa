"""PPO against a reward model, and PPO beside DR-PO on summaries over several seeds.

    BEZOAR_DATA=FOLDER python benchmarks/ppo.py hh [--updates 20]
    BEZOAR_DATA=FOLDER python benchmarks/ppo.py summaries [--updates 12] [--seeds 0 1 2]

`hh`: the 135M model, tuned on chosen answers, moves against the reward model that
benchmarks/reward_hh.py trained on 2,000 pairs; the mean reward of its answers to held-out prompts,
before and after, prompt by prompt, and the KL. `summaries`: databricks-dolly-15k's summaries, a
model tuned on them, a reward model of their own summaries against its summaries, then PPO and DR-PO
(reset 1) with the same number of updates from the same start: reward, KL and ROUGE-L on held-out
texts. Settings were chosen on training prompts. Results go to benchmarks/results/ppo.json.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bezoar.chat.templates import ChatML
from bezoar.data import HHRLHF
from bezoar.data.dolly import Dolly
from bezoar.evals.rouge_bleu import rouge_bleu
from bezoar.evals.stats import paired, score
from bezoar.io import cache_dir, read_json
from bezoar.judge.best_of_n import BestOfN
from bezoar.judge.heuristics import Form
from bezoar.model.completions import completion_logprobs, draw_completions, reward_completions
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights, Sampling
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.synth.sampled_answers import Sample
from bezoar.train.objectives import SFT, BradleyTerry
from bezoar.train.settings import StageInputs
from bezoar.train.stages import PPO, Train

RESULTS = Path(__file__).parent / "results" / "ppo.json"
MODEL = ModelSpec("smollm2-135m-instruct")
LORA = LoRA(r=16, alpha=16, dropout=0.0)


def stage(
    settings: Any,
    rows: Any,
    adapters: list[Path],
    out: Path,
    *,
    seed: int = 0,
    reward: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Carry out a training stage into `out` unless it is there; its adapter and statistics."""
    if not (out / "out" / "stats.json").is_file():
        where = StageInputs(
            MODEL,
            adapters,
            ChatML(),
            out / "work",
            out / "out",
            (MODEL, [reward]) if reward else None,
        )
        settings.fit(rows, where, progress=Progress(out.name, out / "metrics.jsonl"), seed=seed)
    return out / "out" / "adapter", read_json(out / "out" / "stats.json")


def measured(
    adapters: list[Path],
    base: list[Path],
    reward: Path,
    rows: list[Any],
    how: Sampling,
    good: RewardWeights,
) -> dict[str, Any]:
    """Per row of held-out prompts: the reward of an answer, the log-ratio to the model below, and
    the answer."""
    policy, below, judge = Stack(MODEL, adapters), Stack(MODEL, base), Stack(MODEL, [reward])
    prompts = [row.prompt for row in rows]
    texts = [
        [one[0][0]]
        for one in draw_completions(policy, ChatML(), prompts, how, num=1, seed=99)
        if one
    ]
    assert judge.score_head is not None
    rewards = [
        good.score(judge.score_head.outputs, v)
        for [v] in reward_completions(judge, ChatML(), prompts, texts)
    ]
    moved = [
        a - b
        for [a], [b] in zip(
            *(completion_logprobs(s, ChatML(), prompts, texts) for s in (policy, below)),
            strict=True,
        )
    ]
    return {"reward": rewards, "kl": moved, "texts": [text for [text] in texts]}


def figure(name: str, values: list[float]) -> dict[str, Any]:
    found = score(name, values)
    return {"mean": found.value, "low": found.low, "high": found.high, "n": found.n}


def hh(folder: Path, updates: int, found: dict[str, Any]) -> None:
    reward = cache_dir() / "reward_hh" / "2000" / "out" / "adapter"
    if not reward.is_dir():
        sys.exit("There is no reward model of 2,000 pairs; run benchmarks/reward_hh.py first.")
    rows = [
        pair.as_chat()
        for pair in (
            HHRLHF(
                str(folder / "hh-rlhf/helpful-single-turn/train_w2s.jsonl"),
                shuffle_seed=0,
                limit=2400,
            )
            .load()
            .rows
        )
    ]
    rows = (
        Form(
            "rows", max_prompt_words=60, max_words=45, refusals=False, loops=False, unfinished=False
        )
        .sift(rows)
        .rows
    )
    train, held_out = rows[:-120][:400], rows[-120:]
    out = cache_dir() / "ppo" / "hh"
    sft, _ = stage(
        Train("m", "rows", SFT(), LORA, lr=2e-4, batch_size=8, max_length=256, validation=0.0),
        train,
        [],
        out / "sft",
    )
    settings = PPO(
        "m",
        "r",
        "rows",
        normalise="mean",
        adapter=LORA,
        updates=updates,
        batch_size=24,
        epochs=2,
        max_tokens=64,
        max_length=160,
        lr=3e-4,
        head_lr=3e-3,
    )
    adapter, stats = stage(settings, train, [sft], out / f"ppo-{updates}", reward=reward)
    how = Sampling(temperature=0.7, top_p=1.0, max_tokens=64)
    before, after = (
        measured(adapters, [sft], reward, held_out, how, RewardWeights())
        for adapters in ([sft], [sft, adapter])
    )
    gain = paired("reward", before["reward"], after["reward"])
    found["hh"] = {
        "settings": repr(settings),
        "start": figure("start", before["reward"]),
        "after": figure("after", after["reward"]),
        "gain": {"mean": gain.difference, "low": gain.low, "high": gain.high, "p": gain.p},
        "kl": figure("kl", after["kl"]),
        "seconds": stats["training_s"],
        "cpu_s": stats["cpu_s"],
    }


def summaries(folder: Path, updates: int, seeds: list[int], found: dict[str, Any]) -> None:
    rows = (
        Dolly(
            str(folder / "dolly/databricks-dolly-15k.jsonl"),
            category="summarization",
            shuffle_seed=0,
        )
        .load()
        .rows
    )
    rows = Form("rows", max_prompt_words=130, max_words=45, refusals=False).sift(rows).rows
    train, held_out = rows[40:200], rows[:40]
    out = cache_dir() / "ppo" / "summaries"
    common = {"batch_size": 8, "max_length": 300, "validation": 0.0}
    sft, _ = stage(Train("m", "rows", SFT(), LORA, lr=2e-4, **common), train, [], out / "sft")
    how = Sampling(temperature=0.7, top_p=1.0, max_tokens=48)
    stack = Stack(MODEL, [sft])
    context: Any = SimpleNamespace(
        open_model=lambda _: stack, template=ChatML(), progress=Progress(), seed=0
    )
    pairs = (
        BestOfN("rows", "own")
        .sift(Sample("rows", "m", 1, answers=how).sample([*train, *held_out], context).rows)
        .rows
    )
    own = {row.id for row in held_out}
    reward, _ = stage(
        Train("m", "rows", BradleyTerry(), LORA, lr=5e-4, **common),
        [p for p in pairs if p.id not in own],
        [],
        out / "reward",
    )
    judge = Stack(MODEL, [reward])
    theirs = reward_completions(
        judge, ChatML(), [row.prompt for row in held_out], [[row.answer] for row in held_out]
    )
    good = RewardWeights().centred(("reward",), [values for [values] in theirs], scale=False)
    right = [
        (p, reward_completions(judge, ChatML(), [p.prompt], [[p.chosen, p.rejected]])[0])
        for p in pairs
        if p.id in own
    ]
    found["summaries"] = table = {
        "reward_accuracy": figure("accuracy", [float(a[0] > b[0]) for _, (a, b) in right]),
        "rows": len(train),
    }
    settings = PPO(
        "m",
        "r",
        "rows",
        goodness=good,
        adapter=LORA,
        updates=updates,
        batch_size=16,
        epochs=2,
        max_tokens=48,
        max_length=250,
        lr=3e-4,
        head_lr=3e-3,
    )
    table["settings"] = repr(settings)
    runs = {"sft": [measured([sft], [sft], reward, held_out, how, good)]}
    for seed in seeds:
        for reset, name in ((0.0, "ppo"), (1.0, "drpo")):
            adapter, _ = stage(
                replace(settings, reset=reset),
                train,
                [sft],
                out / f"{name}-{updates}-{seed}",
                seed=seed,
                reward=reward,
            )
            runs.setdefault(name, []).append(
                measured([sft, adapter], [sft], reward, held_out, how, good)
            )
            print(name, seed, figure("reward", runs[name][-1]["reward"]), flush=True)
    references = [[row.answer] for row in held_out]
    for name, each in runs.items():
        rouge = [
            rouge_bleu([row.id for row in held_out], one["texts"], references).scores
            for one in each
        ]
        table[name] = {
            "reward": figure("reward", over_seeds([one["reward"] for one in each])),
            "reward_by_seed": [sum(o["reward"]) / len(o["reward"]) for o in each],
            "kl": figure("kl", over_seeds([one["kl"] for one in each])),
            "rouge_l": (
                sum(s.value or 0.0 for scores in rouge for s in scores if s.name == "ROUGE-L")
                / len(each)
            ),
        }
    if {"ppo", "drpo"} <= runs.keys():
        gap = paired(
            "drpo - ppo",
            *(over_seeds([one["reward"] for one in runs[name]]) for name in ("ppo", "drpo")),
        )
        table["drpo_over_ppo"] = {
            "mean": gap.difference,
            "low": gap.low,
            "high": gap.high,
            "p": gap.p,
            "n": gap.n,
            "seeds": len(seeds),
        }


def over_seeds(runs: list[list[float]]) -> list[float]:
    """Means by row."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("which", choices=["hh", "summaries"])
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if not os.environ.get("BEZOAR_DATA"):
        sys.exit("BEZOAR_DATA names no folder; the rows are read from there.")
    torch.set_num_threads(1)
    folder = Path(os.environ["BEZOAR_DATA"])
    made: dict[str, Any] = {}
    if given.which == "hh":
        hh(folder, given.updates, made)
    else:
        summaries(folder, given.updates, given.seeds, made)
    found = {
        **(json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}),
        **made,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found[given.which], indent=1))


if __name__ == "__main__":
    main()
