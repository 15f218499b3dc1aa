"""Near duplicates among many rows: rate, peak memory, what is found; beside rensa and datasketch.

    python benchmarks/duplicates.py [--rows 10000 100000 1000000] [--peers PYTHON]

Made rows of 10 to 30 words, whose frequencies fall as those of a language. One in ten is an earlier
row with one to three words changed; one in ten belongs to a family of about fifty that share eight
words and are similar by 0.65, below the threshold of 0.7. `found` are those of the `wanted` rows
that were dropped: changed rows that are similar by 0.7 to the kept row that they were made of.
`others` were dropped and are not similar to the row that they were made of, or made of none.

Each measurement is a process of its own, and no rows are held. Rates are by CPU second, which mean
the same on a busy machine. PYTHON is an interpreter with `rensa` and `datasketch`; they get the
same sets of words and word pairs, for at most --peer-rows rows. `exact` and `contamination` are
the filter of equal rows and the search for 500 items in all rows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "duplicates.json"
THRESHOLD, MOST_WORDS, BLOCK, FAMILY = 0.7, 30, 10_000, 50
_RANKS = np.cumsum(1 / (np.arange(30_000) + 10.0))
VOCABULARY = np.array([f"w{i:x}" for i in range(len(_RANKS))])
Marks = Iterator[bool]


def mixed(numbers: np.ndarray) -> np.ndarray:
    """A random number of 64 bits for each number (splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words_for(keys: np.ndarray, num: int) -> np.ndarray:
    """[keys, num] words by a law of Zipf."""
    numbers = keys[:, None] * np.uint64(64) + np.arange(num, dtype=np.uint64)
    shares = mixed(numbers).astype(np.float64) / 2.0**64
    return VOCABULARY[np.searchsorted(_RANKS, shares * _RANKS[-1])]


def origins(rows: np.ndarray) -> np.ndarray:
    """The row that each is made of: itself, or for one in ten an earlier one that is of itself."""
    is_changed = (mixed(rows * 7 + 1) % 10 == 0) & (rows > 0)
    made = np.where(is_changed, mixed(rows * 7 + 2) % np.maximum(rows, 1), rows)
    while (wrong := (made != rows) & (made > 0) & (mixed(made * 7 + 1) % 10 == 0)).any():
        made = np.where(wrong, made - 1, made)
    return made


def texts_of(rows: np.ndarray, num: int) -> list[str]:
    """The texts of some of `num` rows."""
    made = origins(rows)
    table, lengths = words_for(made, MOST_WORDS), (10 + mixed(made * 7 + 3) % 21).astype(int)
    in_family, num_families = mixed(made * 7 + 4) % 10 == 0, max(1, num // 10 // FAMILY)
    family = mixed(made * 7 + 5) % num_families + np.uint64(1 << 40)
    table[in_family, :8], lengths[in_family] = words_for(family, 8)[in_family], 10
    found = []
    for number, row in enumerate(rows.tolist()):
        words = table[number, : lengths[number]].tolist()
        for change in range(1 + row % 3 if made[number] != row else 0):
            words[(row * 31 + change * 7) % len(words)] = f"c{row:x}x{change}"
        found.append(" ".join(words))
    return found


def texts(num: int) -> Iterator[str]:
    """The texts of all rows."""
    for start in range(0, num, BLOCK):
        yield from texts_of(np.arange(start, min(start + BLOCK, num), dtype=np.uint64), num)


def features(text: str) -> set[str]:
    words = text.split()
    return {*words, *(f"{one} {other}" for one, other in pairwise(words))}


def is_near(one: str, other: str) -> bool:
    own, others = features(one), features(other)
    return len(own & others) >= THRESHOLD * len(own | others)


def bezoar(rows: Iterable[str], folder: str) -> Marks:
    from bezoar.data.near_duplicates import NearDuplicates

    twins = NearDuplicates(THRESHOLD, folder).add(("", row) for row in rows)
    return (twin is not None for twin in twins)


def datasketch(rows: Iterable[str], folder: str) -> Marks:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    for number, row in enumerate(rows):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([feature.encode() for feature in features(row)])
        found = bool(index.query(sketch))
        if not found:
            index.insert(number, sketch, check_duplication=False)
        yield found


def rensa(rows: Iterable[str], folder: str) -> Marks:
    from rensa import RMinHash, RMinHashLSH

    index, kept = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=32), dict[int, Any]()
    for number, row in enumerate(rows):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(list(features(row)))
        # the index gives candidates, which are compared by their sketches
        found = any(sketch.jaccard(kept[i]) >= THRESHOLD for i in index.query(sketch))
        if not found:
            index.insert(number, sketch)
            kept[number] = sketch
        yield found


def chats(rows: Iterable[str]) -> Iterator[Any]:
    from bezoar.chat.types import Chat, Message

    for number, row in enumerate(rows):
        yield Chat(str(number), (Message("user", row), Message("assistant", "Yes.")))


def exact(rows: Iterable[str], folder: str) -> Marks:
    from bezoar.data.subset import content_key

    seen = set[int]()
    for chat in chats(rows):
        key = content_key(chat, 0)
        yield key in seen
        seen.add(key)


def contamination(rows: Iterable[str], folder: str) -> Marks:
    from bezoar.evals.contamination import Items, search

    items = texts_of(np.arange(500, dtype=np.uint64) + (1 << 50), 1 << 20)
    texts = [(str(i), " ".join(text.split()[: 4 + i % 20]), "") for i, text in enumerate(items)]
    num = search(chats(rows), Items.of({"made": texts}, 8))["rows"]
    return (False for _ in range(num))


SYSTEMS: dict[str, Callable[[Iterable[str], str], Marks]] = {
    "bezoar": bezoar,
    "rensa": rensa,
    "datasketch": datasketch,
    "exact": exact,
    "contamination": contamination,
}


def measured(name: str, num: int) -> dict[str, Any]:
    """What one system takes and finds, without what making the rows takes."""
    before_s = cpu_s()
    list(SYSTEMS[name](texts(100), tempfile.gettempdir()))  # libraries
    before_s = cpu_s()
    for _ in texts(num):
        pass
    making_s, before_mb = cpu_s() - before_s, peak_mb()
    # bezoar's files are where the rows of its runs are, on a disk
    with tempfile.TemporaryDirectory(dir=RESULT.parent) as folder:
        started, before_s = time.monotonic(), cpu_s()
        dropped = np.fromiter(SYSTEMS[name](texts(num), folder), bool, num)
        took_s, wall_s = cpu_s() - before_s - making_s, time.monotonic() - started - making_s
    figures = {
        "system": name,
        "rows": num,
        "rows_per_cpu_s": round(num / took_s),
        "cpu_s": round(took_s, 1),
        "wall_s": round(wall_s, 1),
        "libraries_mb": round(before_mb),
        "peak_mb": round(peak_mb()),
        "bytes_a_row": round((peak_mb() - before_mb) * 1e6 / num),
    }
    return {**figures, **checked(num, dropped)} if name in tuple(SYSTEMS)[:3] else figures


def checked(num: int, dropped: np.ndarray) -> dict[str, int]:
    """How many rows were to be dropped, and were, of 200,000 at most."""
    wanted = found = others = 0
    for start in range(max(0, num - 200_000), num, BLOCK):
        rows = np.arange(start, min(start + BLOCK, num), dtype=np.uint64)
        made = origins(rows)
        pairs = zip(
            rows.tolist(), made.tolist(), texts_of(rows, num), texts_of(made, num), strict=True
        )
        for row, origin, text, other in pairs:
            near = row != origin and is_near(text, other) and not dropped[origin]
            wanted, found = wanted + near, found + bool(near and dropped[row])
            others += bool(dropped[row] and not near)
    return {"dropped": int(dropped.sum()), "wanted": wanted, "found": found, "others": others}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--peer-rows", type=int, default=100_000, help="most rows of the others")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the others")
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print("RESULT " + json.dumps(measured(given.work[0], int(given.work[1]))))
        return
    stored = json.loads(RESULT.read_text())["results"] if RESULT.exists() else []
    results = {(row["system"], row["rows"]): row for row in stored}
    for num in given.rows:
        for name in given.only:
            is_peer = name in ("rensa", "datasketch")
            if num > (given.peer_rows if is_peer else max(given.rows)):
                continue
            python = given.peers if is_peer else sys.executable
            command = [python, __file__, "--work", name, str(num)]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                print(f"{name} left out: {done.stderr.strip().splitlines()[-1][:200]}")
                continue
            results[name, num] = json.loads(lines[0].removeprefix("RESULT "))
            print(results[name, num], flush=True)
    names = list(SYSTEMS)
    ordered = sorted(results.values(), key=lambda r: (names.index(r["system"]), r["rows"]))
    cores = len(os.sched_getaffinity(0))
    RESULT.write_text(json.dumps({"cores": cores, "results": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
