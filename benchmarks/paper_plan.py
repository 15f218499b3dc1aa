"""A plan on paper: a 70B teacher writes 10 million rows, and a 70B model is trained on them, with
64 GPUs. What was measured feeds it; what was not is assumed; each line says which.

    python benchmarks/paper_plan.py [--write]

Prints the tables of docs/scale.md; with --write they are put there.
"""

import argparse
import json
import math
import re
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from bezoar.stage import PART_ROWS

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- made by benchmarks/paper_plan.py -->", "<!-- end -->"
GB, HOUR_S = 1e9, 3600


class Range(NamedTuple):
    """What is expected, between bad and good luck."""

    bad: float
    expected: float
    good: float

    def __call__(self, work: Callable[[float], float]) -> "Range":
        return Range(*map(work, self))

    def __format__(self, form: str) -> str:
        return f"{self.expected:{form}} ({self.bad:{form}} to {self.good:{form}})"


# 1) What is assumed.
NUM_ROWS, PASS_RATE = 10_000_000, 0.7
PROMPT, ANSWER, JUDGED, RUBRIC, VERDICT = 400, 350, 900, 500, 30  # tokens; RUBRIC is of JUDGED
BYTES_A_TOKEN = 4.5
INDEX_BYTES = 48  # of a row: its place among the seeds, its order, its question on the bill
NUM_GPUS, GPUS_A_HOST, GPUS_A_SERVER, IN_FLIGHT = 64, 8, 4, 256
GPU_BYTES, PEAK_FLOPS, USD_A_GPU_HOUR = 80 * GB, 989e12, 2.5
SERVING_MFU, TRAINING_MFU = Range(0.12, 0.25, 0.40), Range(0.22, 0.33, 0.39)
LINK_BYTES_S = Range(25 * GB, 40 * GB, 50 * GB)
WEIGHTS, LAYERS, HIDDEN, INNER, KV, VOCABULARY = 70.6e9, 80, 8192, 28_672, 1024, 128_256
MICRO, PASSES = 12_288, 4  # tokens of a micro-batch of one GPU, micro-batches of a step
RANK = 16
SOURCES = {
    "rows": "assumed: ours, for instructions and answers of some length",
    "llama": "Llama 3.1 70B's config.json",
    "gpu": "H100 SXM's data sheet, dense bfloat16; the price is ours",
    "serving": "assumed: ours; MLPerf Inference v4.1's 84 samples a second of Llama 2 70B on 8 H100"
    " in FP8, some 300 tokens each, are nearly four times as many written tokens",
    "training": "assumed: torchtitan's report of December 2024 has 33 to 39 % for 8B on H100 with"
    " FSDP2, and 829 tokens a second and GPU for 70B in FP8 on 256",
    "link": "assumed: of 400 Gb/s a GPU, half to all; sums and compute wholly at the same time",
}
Line = tuple[str, str, str]


def stored(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def texts(num_tokens: int, draw: Random) -> str:
    return draw.randbytes(round(num_tokens * BYTES_A_TOKEN / 2)).hex()


def journal_bytes(num: int = 1_000) -> float:
    """Bytes of the journal for a reply; written here."""
    from bezoar.chat.types import Message
    from bezoar.llm.journal import Entry, Journal
    from bezoar.llm.types import Reply, Request

    draw, entries = Random(0), []
    for _ in range(num):
        request, answer = Request((Message("user", texts(PROMPT, draw)),)), texts(ANSWER, draw)
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]})
        reply = Reply(answer, prompt_tokens=PROMPT, completion_tokens=ANSWER)
        entries.append(Entry(request.key("m"), request, reply, "m", "run", "stage", body))
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder) / "journal.sqlite") as journal:
            journal.put_many(entries)
        return sum(file.stat().st_size for file in Path(folder).iterdir()) / num


def row_bytes(num: int = 1_000) -> float:
    """Bytes of a row that is held in memory; made here."""
    from bezoar.chat.types import Chat, Message

    draw = Random(0)
    tracemalloc.start()
    rows = [
        Chat(
            f"made-{i}",
            (Message("user", texts(PROMPT, draw)), Message("assistant", texts(ANSWER, draw))),
            {"scheme": "made", "source": "s", "line": i},
        )
        for i in range(num)
    ]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / len(rows)


def generation() -> list[Line]:
    """The teacher and the judge, one model, on all GPUs."""
    num = NUM_ROWS / PASS_RATE
    tokens = num * (PROMPT + ANSWER + JUDGED - RUBRIC + VERDICT)
    rate = SERVING_MFU(lambda mfu: mfu * PEAK_FLOPS / (2 * WEIGHTS))
    hours = rate(lambda each: tokens / (each * NUM_GPUS) / HOUR_S)
    servers = NUM_GPUS // GPUS_A_SERVER
    requests_s = hours(lambda h: 2 * num / (h * HOUR_S))
    scale = stored("scale")["requests"]["rows"][0]["figures"]["cpu_ms_a_request"]
    kv_token = 2 * LAYERS * KV * 2
    free = GPUS_A_SERVER * (0.9 * GPU_BYTES - 3 * GB) - 2 * WEIGHTS
    few, near = sorted(
        (row for row in stored("duplicates")["results"] if row["system"] == "bezoar"),
        key=lambda row: row["rows"],
    )[-2:]
    # what every further row takes
    slope = (near["peak_mb"] - few["peak_mb"]) * 1e6 / (near["rows"] - few["rows"])
    near_bytes = near["peak_mb"] * 1e6 + slope * (num - near["rows"])
    held = row_bytes()
    return [
        ("Requests", f"{2 * num / 1e6:.1f} million", f"{PASS_RATE:.0%} pass; {SOURCES['rows']}"),
        (
            "Tokens read and written",
            f"{tokens / 1e9:.1f} billion",
            f"{PROMPT} + {ANSWER} of the"
            f" teacher, {JUDGED - RUBRIC} + {VERDICT} of the judge behind a cached rubric; assumed",
        ),
        ("Servers", f"{servers} vLLM, {GPUS_A_SERVER} GPUs each", "ours"),
        (
            "GPU memory of a server",
            f"weights {2 * WEIGHTS / GB:.0f} GB in bfloat16; {free / GB:.0f}"
            f" GB hold {free / kv_token / 1e3:.0f} thousand tokens",
            SOURCES["llama"],
        ),
        ("Tokens a second and GPU", f"{rate:,.0f}", f"MFU {SERVING_MFU:.0%}; {SOURCES['serving']}"),
        ("Hours", f"{hours:.0f}", "computed"),
        (
            "Money",
            f"{hours(lambda h: h * NUM_GPUS * USD_A_GPU_HOUR):,.0f} USD",
            f"{USD_A_GPU_HOUR} USD a GPU and hour, {SOURCES['gpu']}",
        ),
        (
            "In flight",
            f"{servers * IN_FLIGHT:,}, {requests_s:.0f} requests a second",
            "4,096 in flight measured (faults.json, load)",
        ),
        (
            "CPU of the asking process",
            f"{requests_s(lambda r: r * scale / 1e3):.2f} cores",
            f"measured: {scale} ms a request (scale.json)",
        ),
        (
            "Network of the asking process",
            f"""{requests_s(lambda r: r * tokens / (2 * num) * BYTES_A_TOKEN / 1e6):.1f} MB/s""",
            "computed",
        ),
        ("Journal", f"{journal_bytes() * 2 * num / GB:.0f} GB", "bytes a reply measured here"),
        (
            "Rows held by a scheme or a judge",
            f"{(held * PART_ROWS + INDEX_BYTES * num) / GB:.1f} GB",
            f"measured here: {held / 1e3:.1f} KB a row, {PART_ROWS:,} at a time, and"
            f" {INDEX_BYTES} bytes of each",
        ),
        (
            "Near duplicates",
            f"{num / near['rows_per_cpu_s'] / 60:.0f} minutes of one core,"
            f" {near_bytes / GB:.1f} GB of memory",
            f"measured on {near['rows']:,} rows of some 20 words (duplicates.json), extrapolated",
        ),
    ]


def training() -> list[Line]:
    """All weights, in parts over all GPUs."""
    tokens = NUM_ROWS * (PROMPT + ANSWER)
    share, block = 1 / NUM_GPUS, (WEIGHTS - 2 * VOCABULARY * HIDDEN) / LAYERS
    ends = 2 * VOCABULARY * HIDDEN
    parts = {
        "parts of weights, gradients and Adam's moments, 16 bytes a weight": 16 * WEIGHTS * share,
        "two blocks and a block's gradient, whole": 12 * block,
        "embeddings, whole, and their gradient": 8 * ends,
        "inputs of all layers": 2 * LAYERS * HIDDEN * MICRO,
        "one layer computed again": (6 * INNER + 16 * HIDDEN) * MICRO,
        "logits": 1 * GB,
    }
    compute = TRAINING_MFU(lambda mfu: mfu * PEAK_FLOPS / (6 * WEIGHTS))

    def bounded(bytes_a_weight: int) -> Range:
        moved = bytes_a_weight * WEIGHTS * (1 - share)
        return Range(
            *(min(c, MICRO * link / moved) for c, link in zip(compute, LINK_BYTES_S, strict=True))
        )

    now, half = bounded(12), bounded(8)
    hours, better = (r(lambda each: tokens / (each * NUM_GPUS) / HOUR_S) for r in (now, half))
    step = NUM_GPUS * MICRO * PASSES
    prepared = stored("prepare")["results"][-1]
    usd = hours(lambda h: h * NUM_GPUS * USD_A_GPU_HOUR)
    return [
        ("Processes", f"{NUM_GPUS} on {NUM_GPUS // GPUS_A_HOST} hosts", "torchrun, FSDP2"),
        ("Tokens, one epoch", f"{tokens / 1e9:.1f} billion", SOURCES["rows"]),
        (
            "Rows to tokens",
            f"{NUM_ROWS / prepared['rows_per_s'] / HOUR_S:.1f} hours of two cores,"
            f" {prepared['cache_mb'] * NUM_ROWS / prepared['rows'] / 1e3:.0f} GB",
            f"measured on {prepared['rows']:,} rows (prepare.json), extrapolated",
        ),
        (
            "GPU memory",
            f"{sum(parts.values()) / GB:.0f} GB",
            "computed: " + "; ".join(f"{size / GB:.0f} GB {what}" for what, size in parts.items()),
        ),
        (
            "Step",
            f"{step:,} tokens, {math.ceil(tokens / step):,} steps",
            f"{PASSES} micro-batches of {MICRO:,} tokens a GPU; ours",
        ),
        (
            "Network",
            f"{12 * WEIGHTS * (1 - share) / GB:,.0f} GB a GPU and micro-batch",
            "12 bytes a weight: gathered twice and summed once, in float32 as it is now",
        ),
        (
            "Tokens a second and GPU, by arithmetic",
            f"{compute:,.0f}",
            f"MFU {TRAINING_MFU:.0%}; {SOURCES['training']}",
        ),
        (
            "Tokens a second and GPU, by network",
            f"{now:,.0f}",
            f"{LINK_BYTES_S(lambda x: x / GB):.0f} GB/s; {SOURCES['link']}",
        ),
        ("Hours", f"{hours:.0f}", "computed, the slower of the two"),
        ("Hours, gathered in bfloat16", f"{better:.0f}", "computed: 8 bytes a weight; not there"),
        ("Money", f"{usd:,.0f} USD", f"{USD_A_GPU_HOUR} USD a GPU and hour; ours"),
        (
            "Checkpoint",
            f"{12 * WEIGHTS / GB:,.0f} GB, {12 * WEIGHTS * share / GB:.0f} a rank",
            "computed: weights and moments in float32",
        ),
        (
            "Memory and disk to write the result",
            f"{6 * VOCABULARY * HIDDEN / GB:.0f} GB, {4 * WEIGHTS / GB:.0f} GB",
            "computed: the largest weight in float32 and in bfloat16; the model twice on the disk"
            " for as long as it takes",
        ),
        (
            "Memory of a host while loading",
            f"{4 * WEIGHTS * share * GPUS_A_HOST / GB:,.0f} GB",
            f"computed: {GPUS_A_HOST} parts in float32, were there no GPUs to hold them; files are"
            " read by rows, and their pages are not counted. On two CPU ranks loading took at most"
            " 1.09 times the part (tests/model/test_parts.py)",
        ),
    ]


def adapter() -> list[Line]:
    """LoRA on the same model, whose base is in parts over the GPUs of one host."""
    block = (WEIGHTS - 2 * VOCABULARY * HIDDEN) / LAYERS
    sizes = (2 * HIDDEN, HIDDEN + KV, HIDDEN + KV, 2 * HIDDEN, *[HIDDEN + INNER] * 3)
    trained = RANK * LAYERS * sum(sizes)
    parts = {
        "a part of the base, 2 bytes a weight": 2 * WEIGHTS / GPUS_A_HOST,
        "the adapter, its gradient, Adam's moments": 16 * trained,
        "two blocks, whole": 4 * block,
        "embeddings, whole": 4 * VOCABULARY * HIDDEN,
        "inputs of all layers": 2 * LAYERS * HIDDEN * MICRO,
        "one layer computed again": (6 * INNER + 16 * HIDDEN) * MICRO,
        "logits": 1 * GB,
    }
    moved = 4 * WEIGHTS * (1 - 1 / GPUS_A_HOST)
    return [
        ("Processes", f"{GPUS_A_HOST} on one host", "torchrun, FSDP2, `shard: true`"),
        (
            "GPU memory",
            f"{sum(parts.values()) / GB:.0f} GB; {2 * WEIGHTS / GB:.0f} for a whole base alone",
            "computed: " + "; ".join(f"{size / GB:.1f} GB {what}" for what, size in parts.items()),
        ),
        (
            "Network",
            f"{moved / GB:,.0f} GB a GPU and micro-batch, {4 * trained / GB:.1f} a step",
            "computed: gathered twice in bfloat16; the adapter's gradient summed once",
        ),
    ]


def table(lines: list[Line]) -> str:
    head = ["| | | from |", "|---|---|---|"]
    return "\n".join(
        [*head, *(f"| {what} | {value} | {source} |" for what, value, source in lines)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    given = parser.parse_args()
    text = (
        f"{NUM_ROWS / 1e6:.0f} million rows by a 70B teacher that judges them too:\n\n"
        f"{table(generation())}\n\n"
        f"SFT of a 70B model, all weights, on {NUM_GPUS} GPUs of 80 GB:\n\n{table(training())}\n\n"
        f"LoRA (r {RANK}) on it, on {GPUS_A_HOST} GPUs of 80 GB:\n\n{table(adapter())}"
    )
    print(text)
    if given.write:
        page, between = PAGE.read_text(), f"{BEGIN}\n{text}\n{END}"
        PAGE.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: between, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
