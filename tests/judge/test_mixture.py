"""Rows of several stages in given shares."""

from collections import Counter
from pathlib import Path

import pytest

from bezoar.chat.row_types import RowType
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.cost import exactly
from bezoar.judge.mixture import Mixture, MixturePart
from tests.helpers.command import refused


def chats(name: str, num: int, words: int = 9) -> list[Chat]:
    answer = Message("assistant", " ".join(["word"] * words))
    return [Chat(f"{name}:{i}", (Message("user", "Say"), answer)) for i in range(num)]


def mixture(**settings: object) -> Mixture:
    return Mixture((MixturePart("talk", 3), MixturePart("tools", 1)), **settings)  # type: ignore[arg-type]


def test_the_scarcest_part_gives_all_its_rows_and_drops_are_counted() -> None:
    mixed = mixture(by="rows").mix([chats("talk", 100), chats("tools", 10)], seed=1)
    assert Counter(row.meta["part"] for row in mixed.rows) == {"talk": 30, "tools": 10}
    assert Counter(d.reason for d in mixed.dropped) == {"over the share of talk": 70}
    # neither the first rows nor a block of each part
    ids = [row.id for row in mixed.rows if row.meta["part"] == "talk"]
    assert ids != sorted(ids, key=lambda x: int(x[5:]))
    assert set(ids) != {f"talk:{i}" for i in range(30)}
    assert mixed.rows[:10] != [row for row in mixed.rows if row.meta["part"] == "tools"]


def test_words_count_by_default() -> None:
    # 10 words a row of talk, 50 a row of tools: three to one in words is 15 rows to one
    mixed = mixture().mix([chats("talk", 300), chats("tools", 10, 49)], seed=1)
    assert Counter(row.meta["part"] for row in mixed.rows) == {"talk": 150, "tools": 10}


def test_a_sample_that_another_part_does_not_move() -> None:
    first = mixture(by="rows", most=8).mix([chats("talk", 100), chats("tools", 10)], seed=1)
    again = mixture(by="rows", most=8).mix([chats("talk", 100), chats("tools", 90)], seed=1)
    talk = [[row.id for row in m.rows if row.meta["part"] == "talk"] for m in (first, again)]
    assert talk[0] == talk[1]
    assert [len(talk[0]), len(first.rows)] == [6, 8]
    other = mixture(by="rows", most=8).mix([chats("talk", 100), chats("tools", 10)], seed=2)
    assert {row.id for row in other.rows} != {row.id for row in first.rows}


def test_pairs_stay_pairs_and_become_chats_beside_chats() -> None:
    pairs = [Comparison(f"p{i}", (Message("user", "Say"),), "yes", "no") for i in range(4)]
    both = mixture(by="rows").mix([pairs, [p.swap() for p in pairs]], seed=1)
    assert all(isinstance(row, Comparison) for row in both.rows)
    beside = mixture(by="rows").mix([pairs, chats("tools", 2)], seed=1)
    assert all(isinstance(row, Chat) for row in beside.rows)
    known = {
        "talk": RowType("comparisons", frozenset("ab")),
        "tools": RowType("chats", frozenset("b")),
    }
    assert mixture().row_type(known, {}) == RowType("chats", frozenset({"b", "part"}))


def test_plan_expects_what_the_shares_allow() -> None:
    rows = {"talk": exactly(100), "tools": exactly(10)}
    assert mixture(by="rows").quote(rows).rows == exactly(40)
    assert mixture(by="rows", most=12).quote(rows).rows == exactly(12)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ("[{rows: a, weight: 1}]", "two or more stages"),
        ("[{rows: a, weight: 1}, {rows: a, weight: 2}]", "names a twice"),
        ("[{rows: a, weight: 0}, {rows: b, weight: 1}]", "parts.0.weight"),
    ],
)
def test_bad_parts(tmp_path: Path, parts: str, fault: str) -> None:
    recipe = tmp_path / "r.yaml"
    source = '{kind: dolly, path: "bezoar:instructions.jsonl"}'
    mix = f"{{kind: mixture, parts: {parts}}}"
    recipe.write_text(f"name: r\nstages: {{a: {source}, b: {source}, mix: {mix}}}\n")
    assert fault in refused("plan", recipe)
