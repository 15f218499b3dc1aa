"""Which rows a window takes: exact, independent of the order of the file, disjoint, and in bounded
memory."""

import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest

from bezoar.chat.types import Chat, Dropped, Message
from bezoar.data.subset import Subset, content_key
from bezoar.errors import DataError


def chat(number: int, words: str = "") -> Chat:
    return Chat(
        f"f:{number}", (Message("user", words or f"question {number}"), Message("assistant", "yes"))
    )


def ids(window: Subset, stream: list[Chat | Dropped]) -> list[str]:
    return [item.id for item in window.take(stream).rows]


ROWS: list[Chat | Dropped] = [chat(n) for n in range(1, 101)]


def test_without_a_seed_rows_come_as_they_stand() -> None:
    assert ids(Subset(), ROWS) == [f"f:{n}" for n in range(1, 101)]
    assert ids(Subset(skip=3, limit=2), ROWS) == ["f:4", "f:5"]
    assert ids(Subset(skip=99, limit=5), ROWS) == ["f:100"]
    assert ids(Subset(skip=200), ROWS) == []


def test_reading_stops_when_enough_rows_are_taken() -> None:
    def stream() -> Iterator[Chat]:
        yield from (chat(n) for n in range(5))
        raise AssertionError("read too far")

    assert len(Subset(limit=5).take(stream()).rows) == 5
    assert len(Subset(skip=2, limit=3).take(stream()).rows) == 3


def test_a_sample_is_the_head_of_one_shuffled_order() -> None:
    order = ids(Subset(seed=4), ROWS)
    assert sorted(order) == sorted(item.id for item in ROWS)
    assert order != [item.id for item in ROWS]
    assert ids(Subset(seed=4, limit=10), ROWS) == order[:10]
    assert ids(Subset(skip=10, seed=4, limit=20), ROWS) == order[10:30]
    assert ids(Subset(skip=95, seed=4, limit=20), ROWS) == order[95:]
    assert ids(Subset(seed=5, limit=10), ROWS) != order[:10]


def test_a_sample_does_not_depend_on_the_order_of_the_file() -> None:
    again = list(ROWS)
    random.Random(0).shuffle(again)
    assert ids(Subset(skip=3, seed=4, limit=10), again) == ids(
        Subset(skip=3, seed=4, limit=10), ROWS
    )


def test_every_row_is_as_likely_as_any_other() -> None:
    counts = Counter(name for seed in range(400) for name in ids(Subset(seed=seed, limit=10), ROWS))
    assert len(counts) == 100
    # 40 expected, standard deviation 6
    assert 15 < min(counts.values()) <= max(counts.values()) < 75


@pytest.mark.parametrize("seed", [None, 7])
def test_duplicates_are_dropped_and_counted(seed: int | None) -> None:
    stream = [*ROWS, *(chat(1000 + n, f"question {n}") for n in range(1, 31))]
    sifted = Subset(seed=seed).take(stream)
    assert len(sifted.rows) == 100
    assert sorted(item.id for item in sifted.dropped) == sorted(
        f"f:{1000 + n}" for n in range(1, 31)
    )
    assert {item.reason for item in sifted.dropped} == {"duplicate"}
    few = Subset(seed=seed, limit=40).take(stream).rows
    assert len({item.messages for item in few}) == 40


def test_drops_are_counted_inside_the_window_alone() -> None:
    stream: list[Chat | Dropped] = []
    for n in range(1, 101):
        stream += [chat(n), Dropped(f"d:{n}", "empty answer")]
    assert len(Subset().take(stream).dropped) == 100
    assert [item.id for item in Subset(skip=2, limit=3).take(stream).dropped] == [
        "d:2",
        "d:3",
        "d:4",
    ]
    everything, head = Subset(seed=1).take(stream), Subset(seed=1, limit=30).take(stream)
    assert len(everything.dropped) == 100
    assert 10 < len(head.dropped) < 60
    assert head.dropped == everything.dropped[: len(head.dropped)]
    rest = Subset(skip=30, seed=1).take(stream)
    assert [*head.dropped, *rest.dropped] == everything.dropped


@pytest.mark.parametrize("seed", [None, 3])
def test_memory_is_bounded_by_what_is_asked_for(seed: int | None) -> None:
    def stream(num: int) -> Iterator[Chat | Dropped]:
        for n in range(num):
            yield (
                Dropped(f"d:{n}", "empty answer", f"{n} " * 50) if n % 2 else chat(n, f"{n} " * 50)
            )

    def peak(num: int) -> int:
        tracemalloc.start()
        Subset(seed=seed, limit=50).take(stream(num))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(100)
    assert peak(30_000) < 5_000_000


def test_half_a_surrogate_pair_is_an_error() -> None:
    with pytest.raises(DataError, match="f:1: the row holds half of a surrogate pair"):
        content_key(chat(1, "\ud800"), 0)
