"""HelpSteer2-Preference: the sign says which answer is chosen, the size how strongly."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Message
from bezoar.data.helpsteer2 import HelpSteer2Preference
from bezoar.errors import DataError


def load(folder: Path, *strengths: Any, part: str = "") -> Any:
    prompt = "Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nWhy?"
    rows = [
        {
            "prompt": prompt,
            "response_1": f"one {i}",
            "response_2": "two",
            "preference_strength": s,
            "split": "val" if i else "train",
        }
        for i, s in enumerate(strengths)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return HelpSteer2Preference("rows.jsonl", part=part).below(folder).load()


def test_pairs_by_the_sign_and_size_of_the_strength(tmp_path: Path) -> None:
    sifted = load(tmp_path, -3, 1, 0, -100)
    assert [(p.chosen, p.rejected, p.meta["strength"]) for p in sifted.rows] == [
        ("one 0", "two", 3),
        ("two", "one 1", 1),
    ]
    assert sifted.rows[0].prompt == (
        Message("user", "Hi"),
        Message("assistant", "Yes?"),
        Message("user", "Why?"),
    )
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("rows.jsonl:3", "no preference"),
        ("rows.jsonl:4", "invalid"),
    ]


def test_one_part_of_the_file(tmp_path: Path) -> None:
    sifted = load(tmp_path, -3, 1, 2, part="val")
    assert [p.id for p in sifted.rows] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert [d.reason for d in sifted.dropped] == ["other part"]


@pytest.mark.parametrize("strength", [4, 1.5, "2"])
def test_another_strength_is_an_error(strength: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: .*preference_strength"):
        load(tmp_path, strength)
