"""Orca: which system messages a task may get, how tasks are drawn, and the rows."""

import json
from array import array
from collections import Counter
from pathlib import Path

import pytest

from bezoar.chat.types import Chat
from bezoar.cost import exactly
from bezoar.errors import DataError, RecipeError
from bezoar.model.spec import Sampling
from bezoar.rng import rng_for
from bezoar.synth.orca import Orca, draw_tasks, quotas, read_systems, system_ids
from tests.helpers.asked import FAILED, Teacher, chat, last
from tests.helpers.loaded import loaded

SUBMIXES = ("cot", "niv2", "t0", "flan2021")


def seeds(num: int = 12, tasks: int = 3) -> list[Chat]:
    """`num` rows of each sub-mix over `tasks` tasks, half of them multiple choice."""
    return [
        chat(
            f"{mix}-{i}",
            f"Question {i} of {mix}?",
            f"gold {i}",
            submix=mix,
            task_name=f"{mix} task {i % tasks}",
            template_type="zs_opt" if i % 2 else "zs_noopt",
        )
        for mix in SUBMIXES
        for i in range(num)
    ]


def orca(num_rows: int = 16, **keys: object) -> Orca:
    return Orca("tasks", "teacher", num_rows, **keys)  # type: ignore[arg-type]


def echo() -> Teacher:
    return Teacher(lambda r: f"Because of {last(r)}")


@pytest.mark.parametrize(
    ("submix", "template", "ids"),
    [
        ("cot", "zs_noopt", (6, 11, 16)),
        ("cot", "zs_opt", (6, 11, 16)),
        ("niv2", "zs_opt", (1, 2, 5, 7, 9, 12, 13, 14, 15)),
        ("t0", "zs_opt", (1, 2, 3, 5, 7)),
        ("flan2021", "zs_noopt", (3, 4, 7)),
        ("flan2021", "zs_opt", (3, 4, 7, 8, 10)),
    ],
)
def test_the_lists_of_system_messages(submix: str, template: str, ids: tuple[int, ...]) -> None:
    assert system_ids(submix, template) == ids


def test_every_message_of_a_list_is_drawn_about_equally_often() -> None:
    rows = [row for row in seeds(400) if row.meta["submix"] in ("flan2021", "cot")]
    made = orca(800, shares={"flan2021": 1.0, "cot": 1.0}).generate(rows, echo(), seed=7).rows
    counts = Counter(
        (row.meta["submix"], row.meta["template_type"], row.meta["system_id"]) for row in made
    )
    choice = {n: counts["flan2021", "zs_opt", n] for n in (3, 4, 7, 8, 10)}
    assert sum(choice.values()) == 200
    assert all(20 <= count <= 60 for count in choice.values())
    assert {n for mix, _, n in counts if mix == "cot"} == {6, 11, 16}


def test_rows() -> None:
    texts = read_systems("bezoar:orca_system.jsonl")
    made = orca(16).generate(seeds(), echo(), seed=7)
    assert not made.dropped
    assert Counter(row.meta["submix"] for row in made.rows) == dict.fromkeys(SUBMIXES, 4)
    assert len({row.id for row in made.rows}) == 16
    for row in made.rows:
        number = int(row.meta["system_id"])
        assert [m.role for m in row.messages] == (
            ["user", "assistant"] if number == 1 else ["system", "user", "assistant"]
        )
        assert number == 1 or row.messages[0].content == texts[number]
        assert row.answer.startswith("Because of Question")
        assert row.meta["target"] == "gold " + row.meta["seed"].split("-")[1]
        assert row.meta["scheme"] == "orca"


def test_the_sixteen_messages() -> None:
    texts = read_systems("bezoar:orca_system.jsonl")
    assert sorted(texts) == list(range(1, 17))
    assert texts[1] == ""
    assert len(set(texts.values())) == 16


def test_tasks_are_drawn_uniformly_whatever_their_size() -> None:
    places = {"big": array("q", range(900)), "small": array("q", range(900, 940))}
    drawn = draw_tasks(places, 60, rng_for(7))
    num_small = sum(place >= 900 for place in drawn)
    assert 18 <= num_small <= 40, "about half of the draws, in spite of 4 % of the rows"
    assert len(set(drawn)) == 60, "without replacement"
    assert len(draw_tasks(places, 940, rng_for(7))) == 940, (
        "an empty task drops out and the other goes on"
    )
    assert len(draw_tasks(places, 5000, rng_for(7))) == 940


def test_a_task_of_niv2_gives_so_many_rows_and_no_more() -> None:
    made = (
        orca(1000, niv2_per_task=2, shares={"niv2": 1.0})
        .generate(seeds(30, tasks=3), echo(), seed=7)
        .rows
    )
    assert Counter(row.meta["task_name"] for row in made) == {f"niv2 task {i}": 2 for i in range(3)}
    free = orca(1000, niv2_per_task=2, shares={"t0": 1.0}).generate(seeds(30), echo(), seed=7).rows
    assert len(free) == 30


def test_quotas_by_hand() -> None:
    even = dict.fromkeys("abcd", 1.0)
    assert quotas(10, even, dict.fromkeys("abcd", 99)) == {"a": 3, "b": 3, "c": 2, "d": 2}
    assert quotas(12, even, {"a": 1, "b": 99, "c": 99, "d": 99}) == {"a": 1, "b": 4, "c": 4, "d": 3}
    assert quotas(9, {"a": 2.0, "b": 1.0}, {"a": 99, "b": 99}) == {"a": 6, "b": 3}
    assert quotas(9, {"a": 2.0, "b": 1.0}, {"a": 2, "b": 3}) == {"a": 2, "b": 3}
    assert quotas(0, even, dict.fromkeys("abcd", 9)) == dict.fromkeys("abcd", 0)


def test_few_shot_and_long_tasks_are_counted() -> None:
    rows = seeds(4)
    rows.append(
        chat("fs", "Examples and a question", submix="t0", task_name="x", template_type="fs_opt")
    )
    rows.append(chat("long", "a" * 6004, submix="t0", task_name="x", template_type="zs_opt"))
    rows.append(chat("just", "a" * 6000, submix="t0", task_name="x", template_type="zs_opt"))
    made = orca(100).generate(rows, echo(), seed=7)
    assert [(d.id, d.reason) for d in made.dropped] == [("fs", "few-shot"), ("long", "too long")]
    assert "orca-just" in {row.id for row in made.rows}


def test_failed_answers_are_counted() -> None:
    made = orca(16, retries=0).generate(
        seeds(), Teacher(lambda r: FAILED if "cot" in last(r) else "Fine."), seed=7
    )
    assert len(made.rows) == 12
    assert [d.reason for d in made.dropped] == ["unreachable"] * 4


def test_a_hint_is_for_the_teacher_alone() -> None:
    teacher = echo()
    row = orca(4, hint="bezoar:orca_hint.txt").generate(seeds(), teacher, seed=7).rows[0]
    assert f"The right answer is: {row.meta['target']}" in last(teacher.seen[0])
    assert "right answer" not in row.prompt[-1].content
    plain = echo()
    orca(4).generate(seeds(), plain, seed=7)
    assert "gold" not in last(plain.seen[0])


def test_the_same_seed_gives_the_same_rows() -> None:
    def rows(seed: int, num: int = 16) -> list[Chat]:
        return orca(num).generate(seeds(), echo(), seed=seed).rows

    assert rows(7) == rows(7)
    assert rows(7) != rows(8)


def test_seeds_of_another_kind_are_refused() -> None:
    with pytest.raises(DataError, match=r"plain: the orca scheme needs meta\.submix"):
        orca().generate([*seeds(), chat("plain", "Hello?")], echo(), seed=7)
    with pytest.raises(DataError, match=r"no usable seed is of the sub-mix t0.*shares\.t0"):
        orca().generate([row for row in seeds() if row.meta["submix"] != "t0"], echo(), seed=7)


def test_system_messages_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "systems.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"S{n}"}) + "\n" for n in range(1, 16)))
    with pytest.raises(RecipeError, match="system messages are missing: 16;"):
        orca(systems=str(path)).generate(seeds(), echo(), seed=7)
    path.write_text('{"id": "1", "text": ""}\n')
    with pytest.raises(RecipeError, match=r"systems\.jsonl:1: a system message has id"):
        orca(systems=str(path)).generate(seeds(), echo(), seed=7)


def test_quote() -> None:
    rows, ((_, calls),) = orca(100, answers=Sampling(max_tokens=300)).quote({"tasks": exactly(60)})
    assert rows.high == 60
    assert calls.num.low == 60
    assert calls.completion_tokens.high == 300


@pytest.mark.parametrize(
    "keys",
    [
        {"num_rows": 0},
        {"shares": {"t0": 0.0}},
        {"shares": {"t0": -1.0, "cot": 2.0}},
        {"niv2_per_task": 0},
    ],
)
def test_settings_that_make_no_sense(keys: dict[str, object]) -> None:
    with pytest.raises((ValueError, RecipeError)):
        loaded(orca(**keys))  # type: ignore[arg-type]
