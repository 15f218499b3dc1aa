"""Property-based fuzzing: how many cases, what a case may take, and what damage is done to files
that were whole.

In the suite a test draws a few cases, the same ones each time. `make fuzz` draws BEZOAR_FUZZ_CASES
in all, new ones each time: every test takes its share of them.
"""

import copy
import faulthandler
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bezoar.chat.types import AnyRow, Chat, Comparison, Message, row_to_item
from bezoar.errors import BezoarError
from bezoar.llm.types import Ask, Reply, Request
from bezoar.parquet import read_parquet, write_parquet
from bezoar.terminal import one_line

CASES = int(os.environ.get("BEZOAR_FUZZ_CASES", "0"))
MOST_S, MOST_BYTES = 10, 2 << 30
_BUSY_S = 60  # after which code that no signal reaches is ended


@dataclass
class Tally:
    """What the cases of this process have taken so far."""

    cases: int = 0
    refused: int = 0
    slowest_s: float = 0.0


TALLY = Tally()


def fuzz(share: float, *, few: int = 20) -> Callable[[Any], Any]:
    """A test of `few` cases in the suite and of `share` (a part of one) of BEZOAR_FUZZ_CASES in the
    long run."""
    return settings(
        max_examples=max(round(CASES * share), 1) if CASES else few,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
            HealthCheck.large_base_example,
        ],
    )


@contextmanager
def bounded(place: str = "") -> Iterator[None]:
    """One case: it may refuse with one of our errors, told in a sentence that begins with `place`,
    and may take 10 s and 2 GB more than there was."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_held_bytes() + MOST_BYTES, before[1]))
    handler = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(MOST_S)
    faulthandler.dump_traceback_later(_BUSY_S, exit=True)  # `pytest -s` shows it
    started, told = time.monotonic(), place
    try:
        yield
    except BezoarError as error:
        TALLY.refused += 1
        told = one_line(error).encode().decode()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)
        taken = time.monotonic() - started
        TALLY.cases += 1
        TALLY.slowest_s = max(TALLY.slowest_s, taken)
    assert told.startswith(place)
    assert taken < MOST_S  # also where a library took the alarm for an error of its own


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a case took more than {MOST_S} s")


def _held_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


# values

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "null",
            "NaN",
            "-1",
            "1e999",
            "0x10",
            "a" * 300,
            "\x00",
            "\x1b]52;c;eA==\x07",
            "\u202e",
            "\ufeff",
            "\U0001f600",
            "[markup]",
            "{query}",
            "%s",
            "../x",
            "/dev/zero",
            "~nouser",
            "$HOME",
            "é",
            "\u2028",
            "<|im_end|>",
            "<s>",
            "Accept",
            "[[7]]",
            "\r\n",
        ]
    ),
    st.just("x").map(lambda text: text * 5000),
)
ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            2**31,
            -(2**63),
            2**64,
            10**30,
            0.5,
            -0.0,
            1e308,
            float("nan"),
            float("inf"),
            [],
            {},
            [[]],
            [None],
            {"": None},
            "\ud800",
            ["\ud800"],
            {"\ud800": 1},
        ]
    ),
    st.integers(),
    st.floats(),
    TEXTS,
)
# copies, since what is drawn may be changed in its place
VALUES = st.recursive(
    ODD.map(copy.deepcopy),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, whole: Any, most: int = 3) -> Any:
    """A copy of a JSON value in which up to `most` places are replaced, added, taken out, doubled,
    renamed or exchanged."""
    value = copy.deepcopy(whole)
    for _ in range(min(draw(st.sampled_from([0, 1, 1, 1, 2, 3])), most)):
        places = list(_places(value))
        if not places:
            return draw(VALUES)
        holder, key = draw(st.sampled_from(places))
        how = draw(
            st.sampled_from(
                ["text"] * 6
                + [
                    "replace",
                    "replace",
                    "add",
                    "add",
                    "remove",
                    "double",
                    "rename",
                    "exchange",
                    "wrap",
                    "deep",
                ]
            )
        )
        _change(draw, value, holder, key, how)
    return value


def _change(draw: st.DrawFn, value: Any, holder: Any, key: Any, how: str) -> None:
    if how in ("replace", "text"):
        holder[key] = draw(VALUES if how == "replace" else TEXTS)
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(["meta", "target", "category", "x"]) | TEXTS)] = draw(VALUES)
    elif how == "remove":
        del holder[key]
    elif how == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(TEXTS)] = holder.pop(key)
    elif how == "exchange":
        holder[key] = copy.deepcopy(
            draw(st.sampled_from([inner[place] for inner, place in _places(value)]))
        )
    elif how == "wrap":
        holder[key] = [holder[key]] if draw(st.booleans()) else {"a": holder[key]}
    elif how == "deep":
        for _ in range(draw(st.sampled_from([5, 100]))):
            holder[key] = [holder[key]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(table or list, key or index) of everything in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# bytes

_PIECES = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\\ud800",
    b"NaN",
    b"\xc3",
    b"\x1b[2J",
    b"# ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object:x ",
    b"\t",
    b"- ",
    b"| ",
    b"? ",
    b"%",
    b"'",
    b"1e9999",
    b"null",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int = 4) -> bytes:
    """A copy of bytes that is cut, spliced, doubled or has others in it in up to `most` places."""
    data = whole
    for _ in range(draw(st.integers(0, most))):
        start, length = (
            draw(st.integers(0, len(data))),
            draw(st.sampled_from([0, 1, 1, 4, 20, 200])),
        )
        how = draw(
            st.sampled_from(["put", "put", "random", "remove", "double", "cut", "move", "line"])
        )
        part = data[start : start + length]
        if how == "put":
            data = data[:start] + draw(st.sampled_from(_PIECES)) + data[start + length :]
        elif how == "random":
            data = data[:start] + draw(st.binary(max_size=8)) + data[start + length :]
        elif how == "remove":
            data = data[:start] + data[start + length :]
        elif how == "double":
            data = data[:start] + part + data[start:]
        elif how == "cut":
            data = data[:start]
        elif how == "move":
            rest = data[:start] + data[start + length :]
            other = draw(st.integers(0, len(rest)))
            data = rest[:other] + part + rest[other:]
        else:
            lines = data.split(b"\n")
            place = draw(st.integers(0, len(lines) - 1))
            lines[place : place + 1] = draw(
                st.sampled_from(
                    [[], [lines[place]] * 2, [b"  " + lines[place]], [lines[place].strip()]]
                )
            )
            data = b"\n".join(lines)
    return data


def json_bytes(value: Any) -> bytes:
    """A value as JSON, odd numbers and halves of surrogate pairs included."""
    return json.dumps(value).encode()


@st.composite
def json_lines(draw: st.DrawFn, rows: list[Any], most: int = 3) -> bytes:
    """JSON Lines made from `rows`: changed as values, then perhaps damaged as bytes."""
    picked = draw(
        st.lists(
            st.sampled_from(rows).flatmap(changed),
            min_size=draw(st.sampled_from([1, 1, 1, 0])),
            max_size=most,
        )
    )
    data = b"".join(json_bytes(row) + b"\n" for row in picked)
    return draw(damaged(data, 2)) if draw(st.integers(0, 3)) == 0 else data


# rows and replies


def _storable(meta: Any) -> bool:
    """Whether a source would let a `meta` pass."""
    try:
        return bool(json.dumps(meta, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, UnicodeEncodeError):
        return False


METAS = st.dictionaries(
    st.sampled_from(["target", "category", "attributes", "reward", "seed", "x"]), VALUES, max_size=3
).filter(_storable)
WORDS = TEXTS.map(str.strip).filter(bool)
PROMPTS = st.builds(
    lambda turns, system: (
        *([Message("system", system)] if system else []),
        *(Message("assistant" if i % 2 else "user", t) for i, t in enumerate(turns)),
    ),
    st.lists(WORDS, min_size=1, max_size=3).map(
        lambda turns: turns[: len(turns) - (len(turns) + 1) % 2]
    ),
    st.sampled_from(["", "Be brief."]),
)
CHATS = st.builds(
    lambda name, prompt, said, meta: Chat(name, (*prompt, Message("assistant", said)), meta),
    TEXTS,
    PROMPTS,
    WORDS,
    METAS,
)
PAIRS = st.builds(Comparison, TEXTS, PROMPTS, WORDS, WORDS, METAS)
SAID = st.lists(
    st.sampled_from(
        [
            "Accept",
            "Reject: ",
            "verdict",
            "\n",
            " ",
            "> ",
            "```",
            "<example>",
            "</example>",
            "1. ",
            "Critique:",
            "Revision:",
            "\nCritique:\na\nRevision:\nb",
            "[[A]]",
            "[[B]]",
            "[[7]]",
            "Rating: ",
            "helpfulness: 3\n",
            "verbosity: 9\n",
            "Equal",
            "Not Equal",
            "sorry",
            "#Rewritten Prompt#",
            "word " * 250,
            "{record}",
        ]
    )
    | TEXTS,
    max_size=12,
).map("".join)
REPLIES = st.builds(
    Reply,
    SAID,
    st.sampled_from(["stop", "stop", "stop", "length"]),
    st.lists(st.floats() | st.just(-1.0), max_size=3).map(tuple),
    st.integers(0, 99),
    st.integers(0, 99),
) | st.builds(
    lambda why, failure: Reply("", "error", error=why, failure=failure),
    WORDS,
    st.sampled_from(["refused", "filtered", "malformed", "budget"]),
)


def answered_by(replies: list[Reply]) -> Ask:
    """A language model that gives `replies` one after the other, again and again; log-probabilities
    where choices are asked for."""
    order = cycle(replies)

    def one(request: Request) -> Reply:
        reply = next(order)
        logprobs = (
            (*reply.logprobs, *[-1.0] * 99)[: len(request.choices)]
            if reply.logprobs and reply.finish != "error"
            else ()
        )
        return replace(reply, logprobs=logprobs)

    return lambda requests: [one(request) for request in requests]


def stored(rows: Sequence[AnyRow], folder: Path) -> None:
    """Rows are written and read as a stage does."""
    write_parquet(folder / "rows.parquet", [row.to_row() for row in rows])
    assert [row_to_item(row) for row in read_parquet(folder / "rows.parquet")] == list(rows)
