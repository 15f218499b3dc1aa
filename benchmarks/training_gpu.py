"""SFT and DPO on a GPU: this project against TRL, random Llamas of 1B and 3B in bfloat16, LoRA and
QLoRA.

    python benchmarks/training_gpu.py [--sizes 1b 3b] [--steps 12] [--only ours|trl]

Printed for each: tokens a second (of prompt and answers as TRL counts them, a pair's prompt twice,
so that both did the same work at the same number), the share of the device's arithmetic (products
with the model's weights alone, of what is really computed), and the peak of the device's memory.
The first quarter of the steps, in which kernels are compiled, is not timed; DPO's reference pass
is, by its share of the rows. TRL is in its best setting: packing for SFT, a reference computed
beforehand for DPO, no checkpointing, Liger's kernels where they install. Needs a CUDA device;
`--sizes tiny` tries both sides anywhere.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from training import make_model, make_rows, peak_gb, plain_template, their_python

RESULTS = Path(__file__).parent / "results" / "training_gpu.json"
BATCH, UNTIMED = 32, 0.25


def untimed(steps: int) -> int:
    """The number of first steps that are not timed; at least one, for the clock starts at the end
    of a step."""
    return max(1, round(UNTIMED * steps))


def real_tokens(rows: list[dict[str, str]], kind: str) -> int:
    """Tokens of all rows; one a word, and an end token an answer."""
    sides = ("chosen", "rejected") if kind == "dpo" else ("chosen",)
    return sum(
        len(row["prompt"].split()) + len(row[side].split()) + 1 for row in rows for side in sides
    )


def ours(kind: str, model: str, rows: list[dict[str, str]], quantize: Any) -> dict[str, Any]:
    from bezoar.chat.types import Comparison, Message
    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.progress import Progress
    from bezoar.train.hardware import peak_flops, peak_memory, step_flops
    from bezoar.train.objectives import DPO, SFT
    from bezoar.train.settings import StageInputs
    from bezoar.train.stages import Train

    class Timed(Progress):
        reference_s = 0.0

        @contextmanager
        def progress(self, what: str, total: float) -> Iterator[Any]:
            started = time.time()
            with super().progress(what, total) as advance:
                yield advance
            self.reference_s += time.time() - started if what == "reference" else 0.0

    items = [
        Comparison(str(i), (Message("user", r["prompt"]),), r["chosen"], r["rejected"])
        for i, r in enumerate(rows)
    ]
    train = Train(
        "m",
        "r",
        DPO() if kind == "dpo" else SFT(),
        LoRA(dropout=0.0),
        batch_size=BATCH,
        tokens_per_batch=16384,
        max_length=2048,
        validation=0.0,
        checkpoint_every=10**6,
    )
    with tempfile.TemporaryDirectory() as out:
        progress = Timed("s", Path(out) / "metrics.jsonl")
        place = StageInputs(
            ModelSpec(model, quantize), [], plain_template(), Path(out) / "work", Path(out) / "out"
        )
        train.fit(items, place, progress=progress, seed=0)
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").open()]
    times = [line["time_s"] for line in lines]
    first = untimed(len(lines))
    timed, share = lines[first:], 1 - first / len(lines)
    spent = times[-1] - times[first - 1] + progress.reference_s * share
    flops = sum(
        step_flops(
            json.loads((Path(model) / "config.json").read_text()),
            tokens=line["tokens"],
            trained=line["trained_tokens"],
            full=False,
        )
        for line in timed
    )
    flops *= 1.5 if kind == "dpo" else 1.0
    peak = peak_flops()
    return {
        "tokens_per_s": real_tokens(rows, kind) * share / spent,
        "mfu": flops / spent / peak if peak else None,
        "peak_gb": peak_memory() / 1e9,
        "seconds": spent,
        "losses": [line["loss"] for line in lines],
    }


def trl(kind: str, model: str, folder: Path, quantize: str) -> dict[str, Any]:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        TrainerCallback,
    )
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    cuda = torch.cuda.is_available()
    times: list[float] = []
    reference_s = [0.0]

    class Timed(DPOTrainer):  # type: ignore[misc]
        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            started = time.time()
            found = super()._precompute_ref_logps(*args, **kwargs)
            reference_s[0] += time.time() - started
            return found

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            times.append(time.time())

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    net = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16,
        device_map={"": 0 if cuda else "cpu"},
        quantization_config=four if quantize == "nf4" else None,
    )
    data = load_dataset(
        "json",
        data_files=str(folder / "rows.jsonl"),
        split="train",
        cache_dir=str(folder / "cache"),
    )
    common: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 2e-4,
        "bf16": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "max_length": 2048,
        "gradient_checkpointing": False,
        "use_cpu": not cuda,
        "use_liger_kernel": cuda and importlib.util.find_spec("liger_kernel") is not None,
    }
    given: Any = {
        "train_dataset": data,
        "processing_class": AutoTokenizer.from_pretrained(model),
        "callbacks": [Clock()],
        "peft_config": LoraConfig(
            r=16,
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    }
    if kind == "sft":
        given["train_dataset"] = data.rename_column("chosen", "completion").remove_columns(
            "rejected"
        )
        trainer: Any = SFTTrainer(
            net, SFTConfig(**{**common, "packing": True, "per_device_train_batch_size": 8}), **given
        )
    else:
        trainer = Timed(
            net, args=DPOConfig(**{**common, "precompute_ref_log_probs": True}), **given
        )
    trainer.train()
    first = untimed(len(times))
    share, rows = (
        1 - first / len(times),
        [json.loads(line) for line in (folder / "rows.jsonl").open()],
    )
    spent = times[-1] - times[first - 1] + reference_s[0] * share
    return {
        "tokens_per_s": real_tokens(rows, kind) * share / spent,
        "mfu": None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else peak_gb(),
        "seconds": spent,
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["1b", "3b"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", default="", help="ours or trl")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        who, kind, quantize, name = given.work
        folder, model = Path(name), str(Path(name) / "model")
        rows = [json.loads(line) for line in (folder / "rows.jsonl").open()]
        result = (
            ours(kind, model, rows, quantize)
            if who == "ours"
            else trl(kind, model, folder, quantize)
        )
        print("\nRESULT " + json.dumps(result), flush=True)
        return
    found: dict[str, Any] = {}
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            make_model(Path(name) / "model", size)
            rows = make_rows(
                BATCH * (given.steps + untimed(given.steps)), [f"w{i}" for i in range(8189)]
            )
            (Path(name) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            for kind, quantize, who in (
                (k, q, w)
                for k in ("sft", "dpo")
                for q in ("none", "nf4")
                for w in ("ours", "trl")
                if given.only in ("", w)
            ):
                python = (
                    sys.executable
                    if who == "ours"
                    else str(their_python("bitsandbytes", "liger-kernel"))
                )
                done = subprocess.run(
                    [python, __file__, "--work", who, kind, quantize, name],
                    capture_output=True,
                    text=True,
                )
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                result = (
                    json.loads(lines[0].removeprefix("RESULT "))
                    if lines
                    else {"failed": done.stderr[-500:]}
                )
                found[f"{size} {kind} {quantize} {who}"] = result
                print(
                    f"{size} {kind} {quantize} {who}: "
                    + json.dumps({k: v for k, v in result.items() if k != "losses"}),
                    flush=True,
                )
    if given.sizes != ["tiny"]:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
