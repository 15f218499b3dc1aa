"""Rows drawn evenly over tasks: which, how many are read for them, and what is counted."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from bezoar.chat.types import Chat, Dropped, Message
from bezoar.data.even_draw import EvenDraw, Part


def row(group: str, task: str, number: int) -> Chat:
    messages = (Message("user", f"{group} {task} {number}"), Message("assistant", "yes"))
    return Chat(f"{group}/{task}:{number}", messages, {"group": group, "task": task})


def place(item: Chat) -> tuple[str, str]:
    return item.meta["group"], item.meta["task"]


def draw(parts: list[Part], groups: str = "a", seed: int | None = None) -> EvenDraw:
    return EvenDraw(parts, place, tuple(groups), seed)


def part(*items: Chat | Dropped, tasks: str = "", group: str = "", label: str = "p") -> Part:
    return Part(lambda: iter(items), label, group, tuple(tasks))


def by_task(rows: list[Chat]) -> Counter[str]:
    return Counter(item.meta["task"] for item in rows)


def test_every_task_gives_as_many_rows_until_it_has_no_more() -> None:
    rows = [row("a", "t", n) for n in range(50)] + [row("a", "u", n) for n in range(3)]
    rows += [row("a", "v", n) for n in range(50)]
    assert by_task(draw([part(*rows)]).take(0, 13).rows) == {"t": 5, "u": 3, "v": 5}
    assert by_task(draw([part(*rows)]).take(0, 2).rows).total() == 2
    assert len(draw([part(*rows)]).take(0, 1000).rows) == 103


def test_the_tasks_that_are_drawn_first_are_as_likely_as_others() -> None:
    rows = [row("a", task, n) for task in "tuvwx" for n in range(ord(task) - 110)]
    counts = Counter[str]()
    for seed in range(300):
        counts += by_task(draw([part(*rows)], seed=seed).take(0, 2).rows)
    # 120 expected of each, standard deviation 8.5
    assert 80 < min(counts.values()) <= max(counts.values()) < 160


def test_a_seed_makes_the_order_of_the_file_indifferent() -> None:
    rows = [row("a", task, n) for task in "tuv" for n in range(20)]
    forth, back = draw([part(*rows)], seed=3), draw([part(*rows[::-1])], seed=3)
    whole = [item.id for item in forth.take(0, 40).rows]
    assert whole == [item.id for item in back.take(0, 40).rows]
    assert by_task(draw([part(*rows)], seed=3).take(0, 6).rows) == dict.fromkeys("tuv", 2)
    assert not {"a/t:0", "a/u:0", "a/v:0"} <= set(whole[:6])
    assert {"a/t:0", "a/u:0", "a/v:0"} <= {i.id for i in draw([part(*rows)]).take(0, 6).rows}


@pytest.mark.parametrize("seed", [None, 3])
def test_windows_share_no_row(seed: int | None) -> None:
    # a long stream, of which a short window reads less than a long one
    rows = [row("a", "tuv"[n % 3], n) for n in range(2000)]
    first, rest, whole = (
        [item.id for item in draw([part(*rows)], seed=seed).take(skip, limit).rows]
        for skip, limit in ((0, 15), (15, 25), (0, 40))
    )
    assert first + rest == whole


def counted(rows: Callable[[], Iterator[Chat]], num: list[int]) -> Callable[[], Iterator[Chat]]:
    def read() -> Iterator[Chat]:
        for item in rows():
            num[0] += 1
            yield item

    return read


@pytest.mark.parametrize("known", [(), ("task 0", "task 4")], ids=["stream", "row group"])
def test_a_part_whose_tasks_alternate_is_not_read_to_its_end(known: tuple[str, ...]) -> None:
    num = [0]

    def rows() -> Iterator[Chat]:
        for n in range(50_000):
            yield row("abcd"[n % 4], f"task {n // 4 % 5}", n)

    drawn = draw([Part(counted(rows, num), "s", tasks=known)], "abcd").take(0, 10).rows
    assert Counter(item.meta["group"] for item in drawn) == dict.fromkeys("abcd", 10)
    assert set(by_task(drawn).values()) == {8}
    assert num[0] < 1000


def test_rows_that_name_no_task_are_enough_when_there_are_enough() -> None:
    num = [0]
    read = counted(lambda: (row("a", "", n) for n in range(50_000)), num)
    assert len(draw([Part(read, "s")]).take(0, 10).rows) == 10
    assert num[0] < 1000


def test_a_stream_sorted_by_task_is_read_to_its_end() -> None:
    rows = [row("a", task, n) for task in "tuv" for n in range(3000)]
    assert by_task(draw([part(*rows)]).take(0, 9).rows) == {"t": 3, "u": 3, "v": 3}


def test_of_parts_that_name_their_tasks_only_the_needed_ones_are_read() -> None:
    parts = [
        part(*(row("a", task, 10 * i + n) for n in range(10)), tasks=task, group="a", label=f"{i}")
        for task in "tuvwx"
        for i in range(20)
    ]
    assert by_task(draw(parts).take(0, 20).rows) == dict.fromkeys("tuvwx", 4)
    assert sum(p.was_read for p in parts) == 5
    # a task after the other gives its rows while others have none left
    parts = [part(row("a", "t", 0), tasks="t", label="t")] + [
        part(*(row("a", "u", 10 * i + n) for n in range(10)), tasks="u", label=f"{i}")
        for i in range(20)
    ]
    assert by_task(draw(parts).take(0, 25).rows) == {"t": 1, "u": 24}
    assert sum(p.was_read for p in parts) == 1 + 3


def test_tasks_that_are_met_on_the_way_are_drawn_too() -> None:
    inside = [row("a", task, n) for task in "tuvw" for n in range(5)]
    parts = [part(*inside, tasks="tw", label="1"), part(row("a", "w", 9), tasks="w", label="2")]
    assert by_task(draw(parts).take(0, 12).rows) == dict.fromkeys("tuvw", 3)
    # also where a part holds no row of the task for which it is read
    parts = [part(*inside, tasks="s", label="1")]
    assert by_task(draw(parts).take(0, 8).rows) == dict.fromkeys("tuvw", 2)


def test_parts_of_a_group_that_is_full_or_not_wanted_are_not_read() -> None:
    parts = [
        part(row("a", "t", 1), row("a", "t", 2), tasks="t", group="a", label="1"),
        part(row("a", "u", 1), tasks="u", group="a", label="2"),
        part(row("b", "t", 1), tasks="t", group="b", label="3"),
        part(row("z", "y", 1), tasks="y", group="z", label="4"),
    ]
    drawn = draw(parts, "ab").take(0, 1).rows
    assert Counter(item.meta["group"] for item in drawn) == {"a": 1, "b": 1}
    assert [p.was_read for p in parts][2:] == [True, False]
    assert sum(p.was_read for p in parts) == 2


def test_drops_count_in_the_proportion_of_what_was_drawn() -> None:
    rows: list[Chat | Dropped] = []
    for n in range(100):
        rows += [row("a", "t", n), Dropped(f"d:{n}", "few-shot"), Dropped(f"e:{n}", "few-shot")]
    few = draw([part(*rows)]).take(0, 10)
    assert (len(few.rows), len(few.dropped)) == (10, 20)
    rest = draw([part(*rows)]).take(10, 90)
    assert (len(rest.rows), len(rest.dropped)) == (90, 180)
    assert not {d.id for d in few.dropped} & {d.id for d in rest.dropped}


@pytest.mark.parametrize("task", ["t", "u"])
def test_equal_rows_of_a_group_are_dropped(task: str) -> None:
    twin = Chat("twin", row("a", "t", 1).messages, {"group": "a", "task": task})
    sifted = draw([part(row("a", "t", 1), row("a", "t", 2), twin)]).take(0, 5)
    assert (len(sifted.rows), [d.reason for d in sifted.dropped]) == (2, ["duplicate"])


def test_memory_is_bounded_by_what_is_wanted() -> None:
    rows = (row("a", f"{n // 1000}", n) for n in range(20_000))
    work = draw([Part(lambda: rows, "s")])
    held = []
    work._trim, trim = (
        lambda: (trim(), held.append(sum(map(count, work.tasks.values())))),
        work._trim,
    )

    def count(task: object) -> int:
        return sum(len(waiting) for waiting in task.waiting.values())  # type: ignore[attr-defined]

    assert by_task(work.take(0, 40).rows) == {str(n): 2 for n in range(20)}
    assert max(held) <= 80
