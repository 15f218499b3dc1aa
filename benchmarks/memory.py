"""Predicted against measured peak memory of training on a CPU, with and without recomputation.

    python benchmarks/memory.py [--only full|lora|nf4] [--tokens 1024]

The packaged 135M model trains two steps of two micro-batches, each case in a process of its own.
Printed and written to results/memory.json for each: the peak of the process's resident
memory, what `bezoar plan` would predict for the fullest micro-batch that it had, and their ratio.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory.json"
MODEL = "smollm2-135m-instruct"
WORDS = [
    "the",
    "sea",
    "has",
    "waves",
    "and",
    "wind",
    "in",
    "old",
    "stones",
    "while",
    "geese",
    "fly",
    "over",
    "southern",
    "hills",
]
CASES: dict[str, dict[str, Any]] = {
    "full": {"lora": False, "quantize": "none"},
    "lora": {"lora": True, "quantize": "none"},
    "nf4": {"lora": True, "quantize": "nf4"},
}


def measure(case: str, recompute: str, tokens: int) -> dict[str, Any]:
    import bezoar.train.supervised_trainer as trainer
    from bezoar.chat.templates import ChatML
    from bezoar.chat.types import Chat, Message
    from bezoar.model.find import local_config
    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.progress import Progress
    from bezoar.train.hardware import peak_memory
    from bezoar.train.memory import options, predict_memory
    from bezoar.train.objectives import SFT
    from bezoar.train.settings import StageInputs
    from bezoar.train.stages import Train

    fullest = [0]

    class Counting(trainer.TrainState):
        def micro_batches(self, rows: Any, budget: int) -> list[list[int]]:
            batches = super().micro_batches(rows, budget)
            sizes = [sum(g.num_input_tokens for g in self.groups(batch)) for batch in batches]
            fullest[0] = max(fullest[0], *sizes)
            return batches

    trainer.TrainState = Counting  # type: ignore[misc]
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    # micro-batches of about `tokens`, two of them a step; a few rows are held out
    batch = 2 * tokens // 230
    rows = [
        Chat(str(i), (Message("user", text(60, 160)), Message("assistant", text(60, 160))))
        for i in range(2 * batch + 4)
    ]
    kind = CASES[case]
    lora = LoRA() if kind["lora"] else None
    train = Train(
        "m",
        "r",
        SFT(),
        lora,
        batch_size=batch,
        tokens_per_batch=tokens,
        lr=1e-4,
        max_steps=2,
        validation=4 / len(rows),
        eval_every=1,
        recompute=recompute,
    )
    spec = ModelSpec(MODEL, kind["quantize"])
    with tempfile.TemporaryDirectory() as out:
        work = Path(out)
        inputs = StageInputs(spec, [], ChatML(), work / "work", work / "out")
        stats = train.fit(rows, inputs, progress=Progress("s"), seed=0)
    always, config = recompute == "always", local_config(MODEL)
    assert config is not None
    memory = predict_memory(
        config, spec, lora, tokens=fullest[0], recompute=always, **options(train)
    )
    assert memory is not None
    return {
        "tokens": fullest[0],
        "steps": stats["steps"],
        "peak_gb": round(peak_memory() / 1e9, 3),
        "predicted_gb": round(memory.total / 1e9, 3),
        "ratio": round(memory.total / peak_memory(), 3),
        "parts_gb": {name: round(size / 1e9, 3) for name, size in vars(memory).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        case, recompute = given.work
        print("\nRESULT " + json.dumps(measure(case, recompute, given.tokens)), flush=True)
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in CASES if not given.only else [given.only]:
        for recompute in ("always", "never"):
            command = [sys.executable, __file__, "--work", case, recompute]
            command += ["--tokens", str(given.tokens)]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{case} {recompute} failed:\n{done.stderr[-2000:]}")
            result = json.loads(lines[0].removeprefix("RESULT "))
            label = f"{case}, {'recomputed' if recompute == 'always' else 'kept'} activations"
            found[f"{label}, {given.tokens} tokens"] = result
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
            print(
                f"{label:32s} {result['peak_gb']:6.2f} GB, predicted"
                f" {result['predicted_gb']:6.2f} GB, ratio {result['ratio']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
