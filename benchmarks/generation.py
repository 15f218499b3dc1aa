"""Greedy answers to many prompts: this project's decoder against transformers' `generate`, same
model, prompts and lengths, each in a process of its own.

    python benchmarks/generation.py [--model smollm2-135m-instruct] [--dtype bfloat16]
        [--threads 1] [--slots 64] [--only ours|transformers] [--prompts short|long]

`short` are 64 lists of topics, median 50 tokens, `long` 32 lists behind one system message, median
430 tokens. Answers have a log-normal length, median 50 and at most 128 tokens, which both engines
are told; a token behind an answer's own length does not count. transformers gets what is best for
it: prompts sorted by length, batches of 8, padded on the left. Printed for each: answer tokens a
CPU second, prompt tokens a CPU second while prompts are read (answers of one token), answer tokens
a CPU second beyond that, and how many answers of the two are equal. Results are added to
results/generation.json.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "generation.json"
BATCH = 8
Answers = list[list[int]]


def log_normal(draw: random.Random, median: int, low: int, high: int) -> int:
    return max(low, min(high, round(median * math.exp(draw.gauss(0, 0.6)))))


def make_prompts(kind: str, model: str) -> tuple[Answers, list[int]]:
    """Prompts as tokens, and the length of each answer."""
    import bezoar
    from bezoar.chat.templates import ChatML
    from bezoar.chat.types import Message
    from bezoar.model.tokenizer import load_tokenizer

    draw, tokenizer, template = random.Random(0), load_tokenizer(model), ChatML()
    topics = (Path(bezoar.__file__).parent / "seeds" / "topics.txt").read_text().split("\n")
    number, median, most = (64, 12, 80) if kind == "short" else (32, 100, 260)
    system = Message("system", "Known topics: " + ", ".join(topics[:60]) + ".")
    prompts, lengths = [], []
    for _ in range(number):
        listed = ", ".join(draw.choices(topics, k=log_normal(draw, median, 2, most)))
        user = Message("user", f"Write a few sentences about: {listed}.")
        prompts.append(template.prompt((user,) if kind == "short" else (system, user), tokenizer))
        lengths.append(log_normal(draw, 50, 4, 128))
    return prompts, lengths


def ours(model: str, dtype: str, slots: int) -> Callable[[Answers, list[int]], Answers]:
    from typing import Any

    from bezoar.model.generation import generate
    from bezoar.model.sampling import SamplingParams
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    precision: Any = dtype
    stack = Stack(ModelSpec(model, dtype=precision), device="cpu")

    def answer(prompts: Answers, lengths: list[int]) -> Answers:
        made = generate(stack, prompts, [SamplingParams(n) for n in lengths], slots=slots)
        return [one.tokens for one in made]

    return answer


def transformers(model: str, dtype: str, slots: int) -> Callable[[Answers, list[int]], Answers]:
    import torch
    from transformers import AutoModelForCausalLM

    from bezoar.model.resolve import resolve_model

    net = AutoModelForCausalLM.from_pretrained(resolve_model(model), dtype=dtype).eval()

    def answer(prompts: Answers, lengths: list[int]) -> Answers:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: Answers = [[] for _ in prompts]
        for batch in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            width = max(len(prompts[i]) for i in batch)
            padding = [width - len(prompts[i]) for i in batch]
            rows = [[0] * n + prompts[i] for n, i in zip(padding, batch, strict=True)]
            seen = [[0] * n + [1] * (width - n) for n in padding]
            # greedy, without an end: both engines write the same number of tokens
            options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            most = max(lengths[i] for i in batch)
            with torch.inference_mode():
                made = net.generate(
                    torch.tensor(rows),
                    attention_mask=torch.tensor(seen),
                    max_new_tokens=most,
                    **options,
                )
            for i, row in zip(batch, made[:, width:].tolist(), strict=True):
                answers[i] = row[: lengths[i]]
        return answers

    return answer


ENGINES = {"ours": ours, "transformers": transformers}


def work(engine: str, kind: str, given: argparse.Namespace) -> None:
    """One engine, in this process."""
    prompts, lengths = make_prompts(kind, given.model)
    answer = ENGINES[engine](given.model, given.dtype, given.slots)
    answer(prompts[:2], [2, 2])  # kernels are made for the first time

    def timed(lengths: list[int]) -> tuple[float, Answers]:
        started = time.process_time()
        answers = answer(prompts, lengths)
        return time.process_time() - started, answers

    reading, _ = timed([1] * len(prompts))
    whole, answers = timed(lengths)
    made, read = sum(map(len, answers)), sum(map(len, prompts))
    result = {
        "answer_tokens": made,
        "prompt_tokens": read,
        "cpu_s": round(whole, 2),
        "tokens_per_cpu_s": round(made / whole, 1),
        "read_per_cpu_s": round(read / reading, 1),
        "written_per_cpu_s": round((made - len(prompts)) / (whole - reading), 1),
        "answers": answers,
    }
    print("\nRESULT " + json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--only", default="", choices=["", *ENGINES])
    parser.add_argument("--prompts", default="", choices=["", "short", "long"])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*given.work, given)
        return
    limits = {"OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "passive"}
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for kind in [given.prompts] if given.prompts else ["short", "long"]:
        answers: list[Answers] = []
        for engine in [given.only] if given.only else ENGINES:
            command = [sys.executable, __file__, *sys.argv[1:], "--work", engine, kind]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | limits)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{engine} {kind} failed:\n{done.stderr[-2000:]}")
            result = json.loads(lines[0].removeprefix("RESULT "))
            answers.append(result.pop("answers"))
            name = f"{given.model}, {given.dtype}, {kind}, {given.threads} threads"
            found.setdefault(name, {})[engine] = result
            print(f"{kind:5s} {engine:12s} {json.dumps(result)}", flush=True)
        if len(answers) == 2:
            same = sum(one == other for one, other in zip(*answers, strict=True))
            found[name]["equal_answers"] = f"{same} of {len(answers[0])}"
            print(f"{kind:5s} equal answers: {found[name]['equal_answers']}", flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
