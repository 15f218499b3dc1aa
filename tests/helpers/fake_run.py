"""A made-up run directory of the form that a run leaves behind, whole or partial, with or without
hostile text."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from bezoar.chat.types import Chat, Comparison, Message
from bezoar.flow.cache_key import ADAPTER_HOLDS, WHOLE_STACK
from bezoar.io import write_json, write_jsonl
from bezoar.parquet import write_parquet
from bezoar.report.load_scores import load_scoreboard
from bezoar.report.run import Run, load_run
from bezoar.report.scoreboard import Scoreboard

HOSTILE = (
    "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> &"
    " \"'\x00\u202e\u2028 ```\n---\nlicense: mit"
)
SEED_URL = "http://127.0.0.1:8000/v1"
TASKS = [
    "List three uses of a broken umbrella.",
    "Why does bread rise?",
    "Explain what a tide table tells a sailor, and name one thing it leaves out.",
    "Write a haiku about a late train.",
    "Which weighs more, a litre of oil or a litre of water?",
    "Summarise the plot of a detective story in two sentences.",
]
ANSWERS = [
    (
        "Bread rises because yeast eats sugar and gives off carbon dioxide, which the dough holds"
        " in small bubbles. Heat then fixes the shape."
    ),
    (
        "1. A frame for climbing beans.\n2. The cloth makes a small waterproof bag.\n3. The handle"
        " is a hook for a shed door."
    ),
    "A litre of water weighs about 1,000 g, a litre of olive oil about 915 g: water weighs more.",
    (
        "The tide table gives the times and heights of high and low water. It leaves out the wind,"
        " which can raise or lower the sea by a good deal."
    ),
]
SETS = {"lamini": (40, 96), "orca": (60, 71), "evol": (40, 88)}
BENCHMARKS = {
    "preferences/log-prob accuracy": 40,
    "preferences/log-prob margin": 40,
    "arc_easy/acc": 80,
    "arc_easy/acc_norm": 80,
    "mt_bench": 24,
    "mt_bench/turn 1": 24,
}
CATEGORIES = [
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
]
MODELS = {
    "base": ("Base", 0.0),
    "sft_evol": ("SFT", 0.06),
    "hh_sft": ("HH-SFT", 0.1),
    "dpo": ("DPO", 0.3),
}


def stages() -> dict[str, dict[str, Any]]:
    """The stages of the recipe, as they stand in resolved.json."""
    found: dict[str, dict[str, Any]] = {
        "seeds": {"kind": "dolly", "path": "bezoar:instructions.jsonl", "num": 40},
        "tasks": {"kind": "flan", "path": "bezoar:tasks.jsonl", "num": 60},
        "pairs": {"kind": "hh_rlhf", "path": "Anthropic/hh-rlhf", "num": 80},
        "pairs_test": {"kind": "hh_rlhf", "path": "Anthropic/hh-rlhf", "num": 40, "split": "test"},
    }
    for name in SETS:
        found[name] = {
            "kind": name if name != "evol" else "evol_instruct",
            "seeds": "tasks" if name == "orca" else "seeds",
            "teacher": "teacher",
        }
        found[f"{name}_ok"] = {"kind": "filter", "rows": name, "judge": "judge", "verdict": "text"}
    below = "base"
    for name, rows in (
        ("sft_lamini", "lamini_ok"),
        ("sft_orca", "orca_ok"),
        ("sft_evol", "evol_ok"),
        ("hh_sft", "pairs"),
        ("dpo", "pairs"),
    ):
        kind = "dpo" if name == "dpo" else "sft"
        found[name] = {
            "kind": "train",
            "model": below,
            "rows": rows,
            "objective": {"kind": kind, **({"beta": 0.1} if kind == "dpo" else {})},
            "adapter": {
                "r": 16,
                "alpha": 16,
                "dropout": 0.05,
                "targets": ["q_proj", "k_proj", "v_proj"],
            },
            "lr": 3e-4,
            "epochs": 2,
        }
        below = name
    for model in MODELS:
        found[f"eval_{model}"] = {
            "kind": "evaluate",
            "model": model,
            "mt_bench": {"judge": "judge", "questions": "bezoar:questions.jsonl"},
            "preferences": {"rows": "pairs_test"},
            "lm_eval": {"tasks": [{"path": "bezoar:choices.jsonl"}]},
        }
    return found


def data_stages() -> dict[str, dict[str, Any]]:
    """Those that make rows."""
    made = {name: fields for name, fields in stages().items() if "model" not in fields}
    return {name: fields for name, fields in made.items() if not name.startswith("pairs")}


def reward_stages() -> dict[str, dict[str, Any]]:
    """Two reward models and how they tell the better answer."""
    found = {"pairs": stages()["pairs"], "pairs_test": stages()["pairs_test"]}
    for name in ("regression", "bradley_terry"):
        found[name] = {
            "kind": "train",
            "model": "base",
            "rows": "pairs",
            "objective": {"kind": name},
        }
    for name in ("regression", "bradley_terry"):
        found[f"eval_{name}"] = {
            "kind": "evaluate",
            "model": name,
            "reward_bench": {"rows": "pairs_test"},
        }
    return found


def build_run(
    path: Path,
    *,
    hostile: bool = False,
    until: str = "",
    table: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Write a run directory; with `until`, that stage and all after it have not run.

    `table` holds other stages than those of the whole recipe.
    """
    path.mkdir(parents=True)
    table = table or stages()
    resolved = {
        "name": "demo" if not hostile else f"demo {HOSTILE}",
        "seed": 7,
        "budget_usd": None,
        "template": {"kind": "chatml", "system": ""},
        "stages": table,
        "backends": {
            "teacher": {"kind": "local", "model": "smollm2-135m-instruct"},
            "judge": {
                "kind": "endpoint",
                "model": "judge-large",
                "url": SEED_URL,
                "price_in": 0.15,
                "price_out": 0.6,
            },
        },
        "models": {
            "base": {"path": "smollm2-135m-instruct", "quantize": "nf4", "dtype": "bfloat16"}
        },
    }
    write_json(path / "resolved.json", resolved)
    recipe = {key: resolved[key] for key in ("name", "seed", "models", "backends", "stages")}
    (path / "recipe.yaml").write_text(
        "# The whole OpenBezoar recipe in small.\n" + yaml.safe_dump(recipe, sort_keys=False)
    )
    lines: list[dict[str, Any]] = []
    for number, name in enumerate(table, 1):
        if name == until:
            break
        _stage(path / f"{number:02d}-{name}", name, table[name], lines, hostile)
    write_jsonl(path / "metrics.jsonl", lines)
    return path


def _stage(
    out: Path, name: str, fields: dict[str, Any], lines: list[dict[str, Any]], hostile: bool
) -> None:
    out.mkdir()
    rng = random.Random(name)
    if name.startswith("pairs"):
        category, stats = "source", _pairs(out, name, fields["num"], rng, hostile)
    elif fields["kind"] in ("dolly", "flan"):
        category, stats = "source", _write(out, _chats(name, fields["num"], rng, hostile), {}, None)
    elif "teacher" in fields:
        num_in, num = SETS[name]
        dropped = (
            {"near duplicate": 21, "unparsed": 14, "too short": 6}
            if name == "lamini"
            else {"same as before": 9, "refusal": 5}
            if name == "evol"
            else {"empty": 2}
        )
        category, stats = (
            "scheme",
            {
                **_write(out, _chats(name, num, rng, hostile), dropped, num_in),
                "calls": _calls(rng, num * 2, 0.0),
            },
        )
    elif fields["kind"] == "filter":
        category, stats = "filter", _filter(out, name, rng, hostile)
    elif "objective" in fields:
        category, stats = "train", _train(name, fields, lines, rng)
        (out / "adapter").mkdir()
    elif "reward_bench" in fields:
        category, stats = "evaluate", _evaluate_rewards(out, fields["model"])
    else:
        category, stats = "evaluate", _evaluate(out, fields["model"], hostile)
    write_json(out / "stats.json", {"seconds": round(rng.uniform(2, 60), 2), **stats})
    inputs = {
        role: fields[role]
        for role in ("seeds", "rows", "model", "teacher", "judge")
        if role in fields
    }
    if "reward_bench" in fields:
        inputs |= {"reward_bench.rows": "pairs_test"}
    elif category == "evaluate":
        inputs |= {"mt_bench.judge": "judge", "preferences.rows": "pairs_test"}
    write_json(
        out / "key.json",
        {
            "key": f"{rng.getrandbits(64):016x}",
            "stage": name,
            "kind": fields["kind"],
            "category": category,
            "inputs": inputs,
            "parts": {ADAPTER_HOLDS: WHOLE_STACK} if category == "train" else {},
            "finished": "2026-11-21T00:40:12+00:00",
        },
    )


def _chats(name: str, num: int, rng: random.Random, hostile: bool, **meta: Any) -> list[Chat]:
    found = []
    for i in range(num):
        system = (
            (Message("system", "You are a patient teacher. Explain each step."),)
            if name.startswith("orca")
            else ()
        )
        answer = " ".join(rng.choices(ANSWERS, k=rng.choice((1, 1, 1, 2, 3, 5))))
        task = HOSTILE if hostile and i % 3 == 1 else rng.choice(TASKS)
        facts = {
            "source": "dolly",
            "category": rng.choice(["open_qa", "brainstorming", "summarization"]),
            **meta,
        }
        if name.startswith("evol"):
            facts |= {"lineage": [f"seeds-{i % 40}", "deepen", "concretise"], "round": 2}
        found.append(
            Chat(
                f"{name}-{i:03d}",
                (*system, Message("user", task), Message("assistant", answer)),
                facts,
            )
        )
    return found


def _write(
    out: Path, chats: list[Chat], dropped: dict[str, int], rows_in: int | None
) -> dict[str, Any]:
    write_parquet(out / "rows.parquet", [chat.to_row() for chat in chats])
    records = [
        {
            "id": f"{out.name[3:]}-x{i}",
            "reason": reason,
            "detail": "similarity 0.83 with an earlier instruction",
        }
        for reason, num in dropped.items()
        for i in range(num)
    ]
    write_jsonl(out / "failures.jsonl", records)
    return {
        "rows_in": len(chats) + sum(dropped.values()) if rows_in is None else rows_in,
        "rows_out": len(chats),
        "dropped": dropped,
    }


def _pairs(out: Path, name: str, num: int, rng: random.Random, hostile: bool) -> dict[str, Any]:
    rows = [
        Comparison(
            f"{name}-{i}",
            (
                Message("user", TASKS[i % 6]),
                Message("assistant", "Which one do you mean?"),
                Message("user", "The first."),
            ),
            HOSTILE if hostile else rng.choice(ANSWERS),
            "I don't know, look it up yourself.",
            {"source": "hh_rlhf"},
        )
        for i in range(num)
    ]
    write_parquet(out / "rows.parquet", [row.to_row() for row in rows])
    write_jsonl(
        out / "failures.jsonl",
        [{"id": f"{name}-900", "reason": "two answers in a row", "detail": "line 901"}],
    )
    return {
        "rows_in": num + 1,
        "rows_out": num,
        "dropped": {"two answers in a row": 1},
        "token_lengths": [int(rng.lognormvariate(4.5, 0.5)) for _ in rows],
    }


def _filter(out: Path, name: str, rng: random.Random, hostile: bool) -> dict[str, Any]:
    num = SETS[name.removesuffix("_ok")][1]
    num_rejected, num_unparsed = num // 4, num // 16
    left = _chats(
        name,
        num_rejected,
        rng,
        hostile,
        verdict="reject",
        reason="The answer is about bread, the question was about an umbrella.",
    )
    left += _chats(name, num_unparsed, rng, hostile, verdict="unparsed", reason="")
    write_parquet(out / "rejected.parquet", [chat.to_row() for chat in left])
    kept = _chats(
        name, num - len(left), rng, hostile, verdict="accept", reason="Clear and complete."
    )
    stats = _write(out, kept, {"reject": num_rejected, "unparsed": num_unparsed}, num)
    return {**stats, "calls": _calls(rng, num, 0.0021)}


def _calls(rng: random.Random, num: int, usd: float) -> dict[str, Any]:
    return {
        "asked": num,
        "from_journal": num // 5,
        "failed": 2 if usd else 0,
        "prompt_tokens": num * 310,
        "completion_tokens": num * rng.randint(60, 180),
        "cost_usd": round(usd * num, 6),
    }


def _train(
    name: str, fields: dict[str, Any], lines: list[dict[str, Any]], rng: random.Random
) -> dict[str, Any]:
    num, dpo = 60, fields["objective"]["kind"] == "dpo"
    start, end = (0.693, 0.44) if dpo else (2.4, 1.5)
    for step in range(1, num + 1):
        share = 1 - math.exp(-step / 22)
        loss = start + (end - start) * share + rng.gauss(0, 0.05 if dpo else 0.14)
        line = {
            "time_s": 1795219200.0 + len(lines),
            "stage": name,
            "step": step,
            "loss": round(loss, 4),
            "grad_norm": round(rng.uniform(0.3, 1.4), 3),
            "lr": 3e-4 * min(1.0, step / 6) * (1 - step / (num + 1)),
            "tokens_per_s": round(rng.uniform(700, 900), 1),
            "trained_tokens": 410,
        }
        if dpo:
            line |= {
                "reward_chosen": round(0.9 * share, 3),
                "reward_rejected": round(-1.2 * share, 3),
            }
            line |= {
                "margin": round(2.1 * share + rng.gauss(0, 0.3), 4),
                "accuracy": min(1.0, max(0.0, round(0.5 + 0.3 * share + rng.gauss(0, 0.1), 3))),
            }
        lines.append(line)
        if step % 15 == 0:
            value = {
                "time_s": line["time_s"],
                "stage": name,
                "step": step,
                "validation_loss": round(start + (end + 0.08 - start) * share, 4),
            }
            lines.append(
                value
                | (
                    {
                        "validation_margin": round(1.6 * share, 3),
                        "validation_accuracy": round(0.5 + 0.2 * share, 3),
                    }
                    if dpo
                    else {}
                )
            )
    dropped = {"too long": 3} if name == "hh_sft" else {}
    return {
        "rows_in": 66,
        "rows_out": 66 - sum(dropped.values()),
        "dropped": dropped,
        "tokens": 61_000,
        "trained_tokens": 24_600,
        "rows_trained": 53,
        "rows_validation": 13,
        "steps": num,
        "first_loss": start,
        "last_loss": end,
        "best_validation_loss": end + 0.08,
        "best_step": 60,
        "training_s": 9.1,
        "memory_splits": 0,
        "peak_memory_bytes": 2_310_000_000,
        "parameters_trained": 1_382_400,
    }


def _evaluate(out: Path, model: str, hostile: bool) -> dict[str, Any]:
    label, better = MODELS[model]
    items: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for benchmark, num in BENCHMARKS.items():
        # the same luck for every model, so that models differ by `better` alone
        rng = random.Random(benchmark)
        records = [_item(benchmark, i, better, rng, hostile) for i in range(num)]
        items += records
        scores.append(
            _score(
                benchmark,
                [r["value"] for r in records],
                benchmark.split("/")[0] if benchmark.startswith("arc") else "",
            )
        )
    rated = [r for r in items if r["benchmark"] == "mt_bench"]
    per = {
        c: _score("mt_bench", [r["value"] for r in rated if r["group"] == c], c) for c in CATEGORIES
    }
    facts = {
        "verdict": "text",
        "prompts": "0f0f",
        "num_cut_answers": 3,
        "failures": {"unparsed": 1},
    }
    write_json(
        out / "scores.json",
        {
            "model": model,
            "label": label,
            "scores": [*scores, *per.values()],
            "info": {"mt_bench": facts},
        },
    )
    write_jsonl(out / "items.jsonl", items)
    return {"rows_in": sum(BENCHMARKS.values()), "calls": _calls(random.Random(model), 48, 0.0031)}


def _evaluate_rewards(out: Path, model: str) -> dict[str, Any]:
    rng, name = random.Random(model), "RewardBench/pairs"
    margins = [round(rng.gauss(0.4, 1.0), 3) for _ in range(40)]
    items = [
        {"benchmark": name, "id": f"pairs_test-{i}", "value": float(margin > 0), "margin": margin}
        for i, margin in enumerate(margins)
    ]
    score = _score(name, [item["value"] for item in items], "")
    info = {"reward_bench": {"sections": {}, "by": "reward"}}
    write_json(
        out / "scores.json", {"model": model, "label": model, "scores": [score], "info": info}
    )
    write_jsonl(out / "items.jsonl", items)
    return {"rows_in": len(items)}


def _item(
    benchmark: str, i: int, better: float, rng: random.Random, hostile: bool
) -> dict[str, Any]:
    luck, noise = rng.random(), rng.gauss(0, 0.3)
    gain = better if benchmark.startswith("pref") else 0.02
    rating = min(10.0, max(1.0, round(2.4 + 3 * luck + better * 2)))
    value = (
        0.1 + gain * 4 + noise
        if "margin" in benchmark
        else rating
        if "mt_bench" in benchmark
        else float(luck < 0.45 + gain)
    )
    row_id = f"pairs_test-{i}" if benchmark.startswith("pref") else f"q{i}"
    record: dict[str, Any] = {"benchmark": benchmark, "id": row_id, "value": round(value, 4)}
    if benchmark != "mt_bench":
        return record
    text, judged = (
        (HOSTILE, HOSTILE)
        if hostile
        else (ANSWERS[i % 4], "The answer is short but true. Rating: [[5]]")
    )
    ratings = [
        {"turn": 1, "rating": rating, "reason": "", "text": judged},
        {
            "turn": 2,
            "rating": None if i == 5 else rating - 1,
            "reason": "unparsed" if i == 5 else "",
            "text": judged,
        },
    ]
    return {
        **record,
        "group": CATEGORIES[i % 8],
        "question": [TASKS[i % 6], "Now say it in one sentence."],
        "answers": [text, text[:60]],
        "judgements": ratings,
    }


def _score(name: str, values: list[float | None], group: str) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    low, high = interval(known)
    return {
        "name": name,
        "value": sum(known) / len(known),
        "low": low,
        "high": high,
        "n": len(known),
        "num_failed": 1 if name == "mt_bench" and not group else 0,
        "group": group,
        "higher_is_better": True,
    }


def interval(values: list[float]) -> tuple[float, float]:
    """A normal 95 % interval of a mean."""
    mean = sum(values) / len(values)
    reach = 1.96 * math.sqrt(
        sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1) / len(values)
    )
    return mean - reach, mean + reach


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    write_json(path, {**json.loads(path.read_text()), **changes})


def load(run_dir: Path) -> tuple[Run, Scoreboard]:
    """What the report, the cards and the terminal are made from."""
    run = load_run(run_dir)
    return run, load_scoreboard(run)


__all__ = [
    "CATEGORIES",
    "HOSTILE",
    "MODELS",
    "build_run",
    "data_stages",
    "edit_json",
    "interval",
    "load",
    "reward_stages",
    "stages",
]
