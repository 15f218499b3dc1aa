"""Benchmark tasks: this project against LM-Eval-Harness's own command line, same model, files and
precision, each in its own process.

    BEZOAR_DATA=FOLDER python benchmarks/evaluation.py [--items 400] [--others 40] [--batch-sizes
1,8,32] [--threads 1] [--out FILE]

ARC-Easy is timed: CPU and wall seconds of the whole process less those of the same command on one
item (imports and the model's loading). The harness's best batch size is found on a quarter of the
items and then runs all of them. PIQA, TruthfulQA (mc1, mc2) and GSM8K (generated) are compared for
equality on `--others` items; every metric of every item counts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
TASKS = {
    "arc_easy": ("arc_easy.jsonl", "{query}\nAnswer:"),
    "piqa": ("piqa.jsonl", "{query}Answer:"),
    "truthfulqa_mc": ("truthfulqa_mc.json", "Q: {query}\nA:"),
    "gsm8k": ("gsm8k.jsonl", "Question: {query}\nAnswer:"),
}
MAX_TOKENS = 48
CHOICE = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
num_fewshot: 0
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
"""
WRITTEN = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
num_fewshot: 0
output_type: generate_until
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:", "</s>", "<|im_end|>"], do_sample: false, max_gen_toks: {max_tokens}}}
filter_list:
  - name: none
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, regexes_to_ignore: [",", "\\\\$", "\\\\.$"]}}
"""  # noqa: E501
METRICS = "metric_list:\n" + "".join(
    f"  - {{{{metric: {m}, aggregation: mean, higher_is_better: true}}}}\n"
    for m in ("acc", "acc_norm")
)
MASS = """
import math
def mass(doc, results):
    values = [math.exp(logprob) for logprob, _ in results]
    return {"acc": sum(v for v, true in zip(values, doc["labels"]) if true) / sum(values)}
"""


def write_harness_task(name: str, folder: Path, num: int) -> list[str]:
    """Files that the harness's command reads; returns the names of its tasks."""
    file, template = TASKS[name]
    path = Path(os.environ["BEZOAR_DATA"]) / "eval" / file
    text = path.read_text(encoding="utf-8")
    rows = (
        json.loads(text)
        if file.endswith(".json")
        else [json.loads(line) for line in text.splitlines()]
    )[:num]

    def put(task: str, items: list[dict[str, Any]], config: str) -> str:
        data = folder / f"{task}.jsonl"
        data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        (folder / f"{task}.yaml").write_text(
            config.format(name=task, file=data, max_tokens=MAX_TOKENS), encoding="utf-8"
        )
        return task

    if name == "gsm8k":
        return [
            put(
                "b_gsm8k",
                [
                    {
                        "query": template.format(query=r["context"]),
                        "answer": str(r["answer"]).strip(),
                    }
                    for r in rows
                ],
                WRITTEN,
            )
        ]
    if name != "truthfulqa_mc":
        return [
            put(
                f"b_{name}",
                [
                    {
                        "query": template.format(query=r["query"]),
                        "choices": r["choices"],
                        "gold": r["gold"],
                    }
                    for r in rows
                ],
                CHOICE + METRICS,
            )
        ]
    (folder / "mass.py").write_text(MASS, encoding="utf-8")
    made = []
    for kind in ("mc1", "mc2"):
        items = []
        for row in rows:
            labels = [int(v) for v in row[f"{kind}_targets"].values()]
            query = template.format(query=row["question"])
            items.append(
                {
                    "query": query,
                    "choices": list(row[f"{kind}_targets"]),
                    "labels": labels,
                    "gold": labels.index(1),
                }
            )
        own = "process_results: !function mass.mass\n" if kind == "mc2" else ""
        made.append(
            put(
                f"b_{kind}",
                items,
                CHOICE
                + METRICS.replace(
                    "  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}\n", ""
                )
                + own,
            )
        )
    return made


def timed(command: list[str], threads: int) -> tuple[float, float]:
    """CPU and wall seconds of a process. SystemExit with its last words where it fails."""
    env = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        time.monotonic() - started,
    )


def theirs(
    name: str, num: int, *, batch_size: int, threads: int
) -> tuple[tuple[float, float], dict[str, float]]:
    """The harness's command on `num` items: its time, and the value of every (metric, item)."""
    from bezoar.model.resolve import resolve_model

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        tasks = write_harness_task(name, folder, num)
        command = [
            sys.executable,
            "-m",
            "lm_eval",
            "run",
            "--model",
            "hf",
            "--model_args",
            f"pretrained={resolve_model(MODEL)},dtype=float32",
            "--tasks",
            ",".join(tasks),
            "--include_path",
            work,
            "--device",
            "cpu",
            "--batch_size",
            str(batch_size),
            "--output_path",
            str(folder / "out"),
            "--log_samples",
        ]
        seconds = timed(command, threads)
        values = {}
        for file in sorted((folder / "out").rglob("samples_*.jsonl")):
            task = next(t for t in tasks if f"samples_{t}_" in file.name)
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                values.update(
                    {
                        f"{task.removeprefix('b_')}/{metric} {row['doc_id']}": float(row[metric])
                        for metric in row["metrics"]
                    }
                )
    return seconds, values


def ours(name: str, num: int, *, threads: int) -> tuple[tuple[float, float], dict[str, float]]:
    """The same by this project, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "items.json"
        seconds = timed(
            [sys.executable, __file__, "--child", name, "--items", str(num), "--out", str(file)],
            threads,
        )
        return seconds, json.loads(file.read_text(encoding="utf-8"))


def child(name: str, num: int, out: Path) -> None:
    """One run of this project."""
    from bezoar.chat.templates import ChatML
    from bezoar.evals.lm_eval import LmEval, Task
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    file, template = TASKS[name]
    task = Task(
        path=str(Path(os.environ["BEZOAR_DATA"]) / "eval" / file),
        template=template,
        limit=num,
        max_tokens=MAX_TOKENS,
    )
    items = (
        LmEval((task,))
        .measure(Stack(ModelSpec(MODEL, dtype="float32"), device="cpu"), ChatML())
        .items
    )
    named = {f"{i['benchmark'].replace('truthfulqa_mc ', '')} {i['id']}": i["value"] for i in items}
    out.write_text(json.dumps(named), encoding="utf-8")


def same(one: dict[str, float], two: dict[str, float]) -> dict[str, Any]:
    """How far two tables are from each other."""
    assert one.keys() == two.keys(), sorted(one.keys() ^ two.keys())[:4]
    gaps = [abs(one[key] - two[key]) for key in one]
    return {
        "values": len(gaps),
        "different": sum(gap > 1e-4 for gap in gaps),
        "largest_difference": max(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument(
        "--others",
        type=int,
        default=40,
        help="items of PIQA, TruthfulQA and, a quarter of them, GSM8K",
    )
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "evaluation.json")
    parser.add_argument("--child", default="")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.items, args.out)
        return
    found: dict[str, Any] = {
        "model": MODEL,
        "precision": "float32",
        "threads": args.threads,
        "equality": {},
    }

    def keep() -> None:
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found), flush=True)

    for name, num in (
        ("piqa", args.others),
        ("truthfulqa_mc", args.others),
        ("gsm8k", max(1, args.others // 4)),
    ):
        mine, harness = (
            ours(name, num, threads=args.threads)[1],
            theirs(name, num, batch_size=8, threads=args.threads)[1],
        )
        found["equality"][name] = {"items": num, **same(mine, harness)}
        keep()
    start_ours, start_theirs = (
        ours("arc_easy", 1, threads=args.threads)[0],
        theirs("arc_easy", 1, batch_size=1, threads=args.threads)[0],
    )
    sample = max(1, args.items // 4)
    trials = {
        size: theirs("arc_easy", sample, batch_size=size, threads=args.threads)[0]
        for size in map(int, args.batch_sizes.split(","))
    }
    best = min(trials, key=lambda size: trials[size][0])
    (cpu_1, wall_1), harness = theirs("arc_easy", args.items, batch_size=best, threads=args.threads)
    (cpu_2, wall_2), mine = ours("arc_easy", args.items, threads=args.threads)
    cpu_1, wall_1, cpu_2, wall_2 = (
        cpu_1 - start_theirs[0],
        wall_1 - start_theirs[1],
        cpu_2 - start_ours[0],
        wall_2 - start_ours[1],
    )
    found["arc_easy"] = {
        "items": args.items,
        "batch_size_trials_cpu_s": {
            size: round(t[0] - start_theirs[0], 1) for size, t in trials.items()
        },
        "trial_items": sample,
        "harness_best_batch_size": best,
        "harness": {
            "cpu_s": round(cpu_1, 1),
            "wall_s": round(wall_1, 1),
            "items_per_cpu_s": round(args.items / cpu_1, 2),
        },
        "ours": {
            "cpu_s": round(cpu_2, 1),
            "wall_s": round(wall_2, 1),
            "items_per_cpu_s": round(args.items / cpu_2, 2),
        },
        "times_faster": round(cpu_1 / cpu_2, 2),
        **same(mine, harness),
    }
    keep()


if __name__ == "__main__":
    main()
