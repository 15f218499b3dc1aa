"""Bradley-Terry reward models on HH-RLHF's helpful pairs: accuracy on held-out pairs by the number
of training pairs.

    BEZOAR_DATA=FOLDER python benchmarks/reward_hh.py [--model smollm2-135m-instruct] [--pairs 2000
1000 500 250] [--held-out 1000] [--threads 1]
    BEZOAR_DATA=FOLDER python benchmarks/reward_hh.py --choose 3e-4 1e-3 3e-3

Training pairs are the first of hh-rlhf/helpful-single-turn/train_gt.jsonl in a fixed order,
held-out ones those of test.jsonl whose prompts no training pair has. The learning rate is chosen by
`--choose` on 400 other pairs of the training file. The rivals on the same held-out pairs are chance
and "the longer answer wins" (characters; a tie is half right). Then LLMBar, with the model that saw
most. Results are written to benchmarks/results/reward_hh.json as they come; what is there is not
done again.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "reward_hh.json"
NUM_TRAIN, NUM_CHOICE = 2000, 400
SETTINGS = {
    "lr": 1e-3,
    "epochs": 1.0,
    "batch_size": 16,
    "tokens_per_batch": 2048,
    "max_length": 512,
    "warmup_ratio": 0.08,
    "validation": 0.0,
    "checkpoint_every": 10,
}


def read(folder: Path, num_held_out: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Pairs to train on, to choose settings on, and held-out ones."""
    from bezoar.data import HHRLHF

    train, test = (
        HHRLHF(str(folder / f"hh-rlhf/helpful-single-turn/{name}.jsonl"), shuffle_seed=0)
        .load()
        .rows
        for name in ("train_gt", "test")
    )
    seen = {pair.prompt for pair in train[: NUM_TRAIN + NUM_CHOICE]}
    return (
        train[:NUM_TRAIN],
        train[NUM_TRAIN : NUM_TRAIN + NUM_CHOICE],
        [pair for pair in test if pair.prompt not in seen][:num_held_out],
    )


def trained(model: str, rows: list[Any], out: Path, **changed: Any) -> tuple[Any, dict[str, Any]]:
    """A stack with a reward model trained on `rows` into `out`, and what training was like; a
    killed run goes on."""
    from bezoar.chat.templates import ChatML
    from bezoar.io import read_json
    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.model.stack import Stack
    from bezoar.progress import Progress
    from bezoar.train.objectives.bradley_terry import BradleyTerry
    from bezoar.train.settings import StageInputs
    from bezoar.train.stages import Train

    done = out / "out" / "stats.json"
    train = Train(
        "model",
        "rows",
        BradleyTerry(),
        LoRA(r=16, alpha=16, dropout=0.0),
        **{**SETTINGS, **changed},
    )
    place = StageInputs(ModelSpec(model), [], ChatML(), out / "work", out / "out")
    stats = (
        read_json(done)
        if done.is_file()
        else train.fit(
            rows, place, progress=Progress(f"{len(rows)} pairs", out / "metrics.jsonl"), seed=0
        )
    )
    kept = ("rows_trained", "steps", "tokens", "first_loss", "last_loss", "training_s", "cpu_s")
    return Stack(ModelSpec(model), [out / "out" / "adapter"]), {name: stats[name] for name in kept}


def accuracy(name: str, values: list[float | None]) -> dict[str, Any]:
    from bezoar.evals.stats import score

    found = score(name, values)
    return {
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "failed": found.num_failed,
    }


def right(stack: Any, pairs: list[Any]) -> list[float | None]:
    """1 where the chosen answer scores strictly higher, 0 where not."""
    from bezoar.chat.templates import ChatML
    from bezoar.evals.judges import reward_margins

    return [
        None if margin is None else float(margin > 0)
        for margin in reward_margins(stack, pairs, ChatML())
    ]


def longer_wins(pairs: list[Any]) -> list[float]:
    sizes = [(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    return [(a > b) + 0.5 * (a == b) for a, b in sizes]


def choose(model: str, rates: list[float], folder: Path, found: dict[str, Any]) -> None:
    train, choice, _ = read(folder, 1)
    for rate in rates:
        with tempfile.TemporaryDirectory() as out:
            stack, stats = trained(model, train[:500], Path(out), lr=rate)
        found.setdefault("choice_of_lr", {})[f"{rate:g}"] = {
            **accuracy("choice", right(stack, choice)),
            **stats,
        }
        write(found)


def curve(
    model: str, counts: list[int], held_out: list[Any], train: list[Any], found: dict[str, Any]
) -> None:
    """Every size that is not done, its adapter into the cache."""
    from bezoar.evals.stats import paired

    longer = longer_wins(held_out)
    found["longer_wins"] = accuracy("longer", longer)
    for count in counts:
        if str(count) in found.setdefault("curve", {}):
            continue
        stack, stats = trained(model, train[:count], saved(count))
        hits = right(stack, held_out)
        beside = [(a, b) for a, b in zip(hits, longer, strict=True) if a is not None]
        over = paired("over longer", [b for _, b in beside], [a for a, _ in beside])
        over_longer = {
            "difference": over.difference,
            "low": over.low,
            "high": over.high,
            "p": over.p,
        }
        found["curve"][str(count)] = {
            **accuracy("held-out", hits),
            "over_longer": over_longer,
            **stats,
        }
        write(found)


def saved(count: int) -> Path:
    """Where the reward model of so many pairs lies."""
    from bezoar.io import cache_dir

    return cache_dir() / "reward_hh" / str(count)


def llmbar(model: str, count: int, folder: Path, found: dict[str, Any]) -> None:
    from bezoar.evals.labelled_pairs import read_labelled_pairs
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    stack = Stack(ModelSpec(model), [saved(count) / "out" / "adapter"])
    pairs = [
        pair
        for path in sorted((folder / "llmbar").rglob("dataset.json"))
        for pair in read_labelled_pairs(path)
    ]
    for name in dict.fromkeys(pair.meta["subset"] for pair in pairs):
        some = [pair for pair in pairs if pair.meta["subset"] == name]
        found.setdefault("llmbar", {})[name] = {
            **accuracy(name, right(stack, some)),
            "longer_wins": accuracy(name, longer_wins(some))["accuracy"],
        }
        write(found)


def write(found: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def show(found: dict[str, Any]) -> None:
    def line(name: str, row: dict[str, Any], more: str = "") -> None:
        print(
            f"{name:28} {100 * row['accuracy']:5.1f} % [{100 * row['low']:.1f},"
            f" {100 * row['high']:.1f}] n={row['n']}{more}"
        )

    line("longer answer wins", found["longer_wins"])
    for count, row in sorted(found["curve"].items(), key=lambda item: int(item[0])):
        over = row["over_longer"]
        more = (
            f"   over longer {100 * over['difference']:+.1f} [{100 * over['low']:+.1f},"
            f" {100 * over['high']:+.1f}] p={over['p']:.3g}"
        )
        line(f"{count} pairs", row, f"{more}   {row['training_s']:.0f} s, {row['cpu_s']:.0f} CPU s")
    for name, row in found.get("llmbar", {}).items():
        line(name, row, f"   longer wins {100 * row['longer_wins']:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2000, 1000, 500, 250])
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--choose", type=float, nargs="+", default=[])
    given = parser.parse_args()
    if not os.environ.get("BEZOAR_DATA"):
        sys.exit("BEZOAR_DATA names no folder; the pairs are read from there.")
    import torch

    torch.set_num_threads(given.threads)
    folder = Path(os.environ["BEZOAR_DATA"])
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if given.choose:
        choose(given.model, given.choose, folder, found)
        return
    train, _, held_out = read(folder, given.held_out)
    found |= {"model": given.model, "settings": SETTINGS}
    curve(given.model, given.pairs, held_out, train, found)
    if "llmbar" not in found:
        llmbar(given.model, max(given.pairs), folder, found)
    show(found)


if __name__ == "__main__":
    main()
