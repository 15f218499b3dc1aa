"""DPO on pairs and SFT on both answers of them: this project against TRL, same model, rows, seeds
and precision, each in a process of its own.

    python benchmarks/training.py [--model 30m|FOLDER|smollm2-135m-instruct] [--pairs 48] [--hh
FILE] [--threads 1] [--only ours|trl|dpo|sft]

The rows are made, or with `--hh` the first `--pairs` of several turns in a file of HH-RLHF,
shuffled with seed 0. Results are added to results/training.json. TRL goes into a virtual
environment of its own, `benchmarks/.venv`, made on the first call. Printed for each: CPU seconds of
the process from the first step's start to the last step's end (reference pass included), peak
resident memory, the loss of every step, and for ours the share of the machine's rate of bfloat16
matrix products, measured just before. The first losses are those of the same untrained model on the
same kind of rows; DPO starts at ln 2 exactly.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "training.json"
TRL = "trl==1.16.0"
VARIANTS = {
    ("trl", "dpo"): {
        "defaults": {},
        "best": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    },
    ("trl", "sft"): {
        "defaults": {},
        "packing": {
            "gradient_checkpointing": False,
            "packing": True,
            "per_device_train_batch_size": 1,
        },
    },
    ("ours", "dpo"): {"defaults": {}},
    ("ours", "sft"): {"defaults": {}},
}
SIZES = {
    "tiny": (64, 160, 2, 8, 4, 8192),
    "30m": (512, 1344, 8, 8, 4, 8192),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "3b": (3072, 8192, 28, 24, 8, 128256),
}
"""Hidden size, inner size, layers, heads, key/value heads, vocabulary."""
BATCH = 8


def log_normal(draw: random.Random, low: int, median: int, high: int) -> int:
    return max(low, min(high, round(median * math.exp(draw.gauss(0, 0.6)))))


def make_rows(count: int, words: list[str]) -> list[dict[str, str]]:
    """Prompts of 50 to 400 tokens, answers of 20 to 300, log-normal; one token a word."""
    draw = random.Random(0)

    def text(size: int) -> str:
        return " ".join(draw.choices(words, k=size))

    sizes = [
        (
            log_normal(draw, 50, 120, 400),
            log_normal(draw, 20, 90, 300),
            log_normal(draw, 20, 90, 300),
        )
        for _ in range(count)
    ]
    return [{"prompt": text(p) + " ", "chosen": text(c), "rejected": text(r)} for p, c, r in sizes]


def hh_rows(file: str, count: int) -> list[dict[str, str]]:
    """The first `count` pairs of several turns, as transcripts."""
    from bezoar.data.hh_rlhf import HHRLHF

    pairs = [pair for pair in HHRLHF(file, shuffle_seed=0).load().rows if pair.meta["turns"] > 1][
        :count
    ]
    speakers = {"user": "Human", "assistant": "Assistant"}

    def text(messages: Any) -> str:
        return "".join(f"\n\n{speakers[m.role]}: {m.content}" for m in messages) + "\n\nAssistant:"

    return [
        {"prompt": text(pair.prompt), "chosen": " " + pair.chosen, "rejected": " " + pair.rejected}
        for pair in pairs
    ]


def make_model(folder: Path, size: str) -> None:
    """A random Llama with one token a word; the larger ones in bfloat16."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(8189)} | {"<s>": 8189, "</s>": 8190, "<pad>": 8191}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<s>", "</s>", "<pad>"])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    width, inner_width, layers, heads, groups, vocabulary_size = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=inner_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=8189,
        eos_token_id=8190,
        pad_token_id=8191,
    )
    torch.set_default_dtype(torch.bfloat16 if layers > 8 else torch.float32)
    LlamaForCausalLM(config).save_pretrained(folder)


def plain_template() -> Any:
    """The prompt's text, then the answer's, as TRL joins them."""
    from bezoar.chat.pieces import Piece, PieceTemplate

    class Plain(PieceTemplate):
        kind = "plain"

        def opening(self) -> list[Piece]:
            return []

        def pieces(self, messages: Any, tokenizer: Any) -> list[Piece]:
            return [Piece(m.content, answer=m.role == "assistant") for m in messages]

    return Plain()


def ours(kind: str, folder: Path, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    from bezoar.chat.types import Chat, Comparison, Message
    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.progress import Progress
    from bezoar.train.hardware import step_flops
    from bezoar.train.objectives import DPO, SFT
    from bezoar.train.settings import StageInputs
    from bezoar.train.stages import Train

    rate = matmul_rate()
    rows = [json.loads(line) for line in (folder / f"{kind}.jsonl").open()]

    def item(name: str, row: dict[str, str]) -> Chat | Comparison:
        prompt = (Message("user", row["prompt"]),)
        return (
            Comparison(name, prompt, row["chosen"], row["rejected"])
            if kind == "dpo"
            else Chat(name, (*prompt, Message("assistant", row["completion"])))
        )

    items: Any = [item(str(i), row) for i, row in enumerate(rows)]
    train = Train(
        "m",
        "r",
        DPO() if kind == "dpo" else SFT(),
        LoRA(r=16, alpha=16, dropout=0.0),
        lr=1e-4,
        batch_size=BATCH,
        validation=0.0,
        schedule="constant",
        warmup_ratio=0.0,
        max_length=2048,
        checkpoint_every=10**6,
        **settings,
    )
    with tempfile.TemporaryDirectory() as out:
        progress = Progress("s", Path(out) / "metrics.jsonl")
        place = StageInputs(
            ModelSpec(model), [], plain_template(), Path(out) / "work", Path(out) / "out"
        )
        stats = train.fit(items, place, progress=progress, seed=0)
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").open()]
    config = json.loads((Path(model) / "config.json").read_text())
    # the reference pass is a forward pass more: half of what a step with frozen weights takes
    flops = step_flops(
        config, tokens=stats["tokens"], trained=stats["trained_tokens"], full=False
    ) * (1.5 if kind == "dpo" else 1.0)
    return {
        "losses": [line["loss"] for line in lines if "loss" in line],
        "cpu_s": stats["cpu_s"],
        "tokens": stats["tokens"],
        "share_of_matmul_rate": round(flops / stats["cpu_s"] / rate, 3),
        "matmul_gflops": round(rate / 1e9),
    }


def trl(kind: str, folder: Path, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    net = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    data = load_dataset(
        "json",
        data_files=str(folder / f"{kind}.jsonl"),
        split="train",
        cache_dir=str(folder / "cache"),
    )
    common = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "seed": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "max_length": 2048,
        "use_cpu": True,
    }
    # a reference that is computed beforehand is computed when the trainer is made
    started = time.process_time()
    lora = LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    if kind == "sft":
        trainer: Any = SFTTrainer(
            net,
            SFTConfig(**{**common, **settings}),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=lora,
        )
    else:
        trainer = DPOTrainer(
            net,
            args=DPOConfig(**{**common, **settings}),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=lora,
        )
    if "precompute_ref_log_probs" not in settings:
        started = time.process_time()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"losses": losses, "cpu_s": time.process_time() - started}


def work(who: str, kind: str, folder: Path, model: str, settings: dict[str, Any]) -> None:
    result = (ours if who == "ours" else trl)(kind, folder, model, settings)
    result["peak_gb"] = peak_gb()
    print("\nRESULT " + json.dumps(result), flush=True)


def peak_gb() -> float:
    """The peak of this process's resident memory; not getrusage's, which a process inherits from
    the one that started it."""
    peak = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(peak.split()[1]) / 1e6


def their_python(*more: str) -> Path:
    """The interpreter of the environment that holds TRL, made where it is missing, and of `more`
    packages those that install."""
    python = HERE / ".venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(HERE / ".venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "torch==2.13.0"], check=True)
        subprocess.run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "-q",
                TRL,
                "transformers",
                "peft",
                "accelerate",
                "datasets",
            ],
            check=True,
        )
    for package in more:
        subprocess.run([str(python), "-m", "pip", "install", "-q", package])
    return python


def matmul_rate() -> float:
    """Floating-point operations a second of a large bfloat16 product."""
    import torch

    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    best = math.inf
    for _ in range(10):
        started = time.process_time()
        a @ b
        best = min(best, time.process_time() - started)
    return 2 * 2048**3 / best


def record(work: str, name: str, result: dict[str, Any]) -> None:
    """Add one result to the file of results."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found.setdefault(work, {})[name] = {
        **result,
        "losses": [round(loss, 4) for loss in result["losses"]],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="30m")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--hh", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="ours, trl, dpo or sft")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        who, kind, folder, model, settings = given.work
        work(who, kind, Path(folder), model, json.loads(settings))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), given.model
        words = [f"w{i}" for i in range(8189)]
        if given.model in ("30m", "tiny"):
            model = str(folder / "model")
            make_model(Path(model), given.model)
        else:
            from bezoar.model.resolve import resolve_model

            model, words = (
                str(resolve_model(given.model)),
                Path(__file__).read_text().replace('"', " ").split(),
            )
        rows = hh_rows(given.hh, given.pairs) if given.hh else make_rows(given.pairs, words)
        answers = [
            {"prompt": row["prompt"], "completion": row[side]}
            for row in rows
            for side in ("chosen", "rejected")
        ]
        for kind, lines in (("dpo", rows), ("sft", answers)):
            (folder / f"{kind}.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
        for (who, kind), variants in VARIANTS.items():
            for label, settings in variants.items() if given.only in ("", who, kind) else ():
                python = sys.executable if who == "ours" else str(their_python())
                command = [
                    python,
                    __file__,
                    "--work",
                    who,
                    kind,
                    str(folder),
                    model,
                    json.dumps(settings),
                ]
                env = {
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(Path.home()),
                    "OMP_NUM_THREADS": str(given.threads),
                    "OMP_WAIT_POLICY": "passive",
                }
                done = subprocess.run(
                    command, capture_output=True, text=True, env=env | {"HF_HUB_OFFLINE": "1"}
                )
                found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not found:
                    sys.exit(f"{who} {kind} {label} failed:\n{done.stderr[-2000:]}")
                result = json.loads(found[0].removeprefix("RESULT "))
                if given.model != "tiny":
                    record(
                        f"{given.model}, {given.pairs} {'HH-RLHF ' if given.hh else ''}pairs",
                        f"{who} {kind} {label}",
                        result,
                    )
                losses = " ".join(f"{loss:.4f}" for loss in result["losses"])
                print(
                    f"{who:5s} {kind} {label:9s} {result['cpu_s']:8.1f} CPU s"
                    f" {result['peak_gb']:6.2f} GB  losses {losses}",
                    flush=True,
                )
                if who == "ours":
                    print(
                        f"      {result['share_of_matmul_rate']:.0%} of the rate of"
                        f" {result['matmul_gflops']} GFLOP/s of a large product"
                    )


if __name__ == "__main__":
    main()
