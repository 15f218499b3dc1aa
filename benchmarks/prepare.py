"""Rows to proved tokens: rate and peak memory at several numbers of rows, each in a process of its
own.

    python benchmarks/prepare.py [--rows 10000 100000] [--model smollm2-135m-instruct]

Made chats (80 words or so) are written to a Parquet file, read from it a part at a time and
prepared with an empty cache, then once more from the cache; then every item is read. "process" is
the peak of the process that trains, libraries included; "helper" that of the largest process that
it started. The memory of `plain` (one process, all items in memory) is beside it at the first size.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "prepare.json"
WORDS = Path(__file__).read_text().replace('"', " ").split()


def write_rows(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bezoar.chat.types import Chat, Message

    draw = random.Random(0)

    def row(number: int) -> dict[str, Any]:
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(10, 70))) for _ in range(2)]
        return Chat(
            f"row {number}", (Message("user", texts[0]), Message("assistant", texts[1]))
        ).to_row()

    writer = None
    for start in range(0, count, 10_000):
        table = pa.Table.from_pylist([row(n) for n in range(start, min(start + 10_000, count))])
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def work(how: str, path: Path, model: str) -> dict[str, Any]:
    from bezoar.chat.templates import ChatML
    from bezoar.flow.rundir import StoredRows
    from bezoar.model.tokenizer import load_tokenizer
    from bezoar.progress import Progress
    from bezoar.train.hardware import peak_memory
    from bezoar.train.label_check import check_labels
    from bezoar.train.objectives import SFT
    from bezoar.train.tokenized_cache import prepare

    rows, tokenizer = StoredRows(path), load_tokenizer(model)
    check: Any = partial(
        check_labels,
        objective=SFT(),
        template=ChatML(),
        tokenizer=tokenizer,
        max_length=1024,
        too_long="drop",
    )
    start = peak_memory()
    found: dict[str, Any] = {"how": how, "rows": len(rows), "libraries_mb": start // 10**6}
    if how == "plain":
        started = time.monotonic()
        kept = check(list(rows)).rows
        return {
            **found,
            "rows_per_s": round(len(rows) / (time.monotonic() - started)),
            "process_mb": peak_memory() // 10**6,
            "items": len(kept),
        }
    for name in ("rows_per_s", "cached_rows_per_s"):
        started = time.monotonic()
        items, _ = prepare(rows, check, key="benchmark", progress=Progress())
        found[name] = round(len(rows) / (time.monotonic() - started))
    found["process_mb"] = peak_memory() // 10**6
    found["helper_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000
    started = time.monotonic()
    found["tokens"] = sum(item.tree.longest for item in items)
    found["read_items_per_s"] = round(len(items) / (time.monotonic() - started))
    found["process_mb_all_read"] = peak_memory() // 10**6
    found["cache_mb"] = (
        sum(f.stat().st_size for f in Path(os.environ["BEZOAR_CACHE"]).rglob("*.arrow")) // 10**6
    )
    return {**found, "items": len(items)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print("RESULT " + json.dumps(work(given.work[0], Path(given.work[1]), given.model)))
        return
    from bezoar.model.resolve import resolve_model

    model, results = str(resolve_model(given.model)), []
    for number, count in enumerate(given.rows):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            write_rows(path, count)
            for how in ("files", "plain") if number == 0 else ("files",):
                command = [sys.executable, __file__, "--work", how, str(path), "--model", model]
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "BEZOAR_CACHE": folder},
                )
                found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not found:
                    sys.exit(f"{how} {count} failed:\n{done.stderr[-2000:]}")
                results.append(json.loads(found[0].removeprefix("RESULT ")))
                print(results[-1], flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps(
            {"cores": len(os.sched_getaffinity(0)), "model": given.model, "results": results},
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
