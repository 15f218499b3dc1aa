"""The train and the held-out part of a source: complete, disjoint, and the same for a conversation
wherever it stands."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import AnyRow
from bezoar.data import Columns, Flan
from bezoar.data.source import Source
from bezoar.errors import DataError, RecipeError
from bezoar.flow.recipe import load_recipe
from tests.helpers.command import bezoar

ROWS = [{"prompt": f"What is {n} plus one?", "response": f"It is {n + 1}."} for n in range(200)]
RECIPE = """\
name: parts
stages:
  chats: {kind: jsonl, path: rows.jsonl, held_out: 0.2}
"""


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def source(folder: Path, **keys: Any) -> Source[Any]:
    return Columns("rows.jsonl", **{"held_out": 0.2, **keys}).below(folder)


def asked(rows: list[AnyRow]) -> list[str]:
    return [row.prompt[0].content for row in rows]


def both(folder: Path, **keys: Any) -> tuple[list[str], list[str]]:
    parts = [source(folder, take_held_out=held, **keys).load().rows for held in (False, True)]
    return asked(parts[0]), asked(parts[1])


def test_the_two_parts_are_all_rows_and_share_none(tmp_path: Path) -> None:
    train, held_out = both(written(tmp_path, ROWS))
    assert sorted(train + held_out) == sorted(row["prompt"] for row in ROWS)
    assert not set(train) & set(held_out)
    assert 0.1 < len(held_out) / len(ROWS) < 0.3


def test_a_row_keeps_its_side_in_any_order_and_beside_any_rows(tmp_path: Path) -> None:
    _, held_out = both(written(tmp_path, ROWS))
    shuffled = random.Random(0).sample(ROWS, 120)
    train_again, held_out_again = both(written(tmp_path, shuffled), shuffle_seed=3)
    assert set(held_out_again) == set(held_out) & {row["prompt"] for row in shuffled}
    assert not set(train_again) & set(held_out)
    # a larger share holds out the same rows and more
    assert set(both(tmp_path, held_out=0.4)[1]) > set(held_out_again)


def test_one_conversation_lies_on_one_side(tmp_path: Path) -> None:
    rows = []
    for n in range(60):
        first = {"role": "user", "content": f"Tell me about the number {n}, please."}
        spelt = {"role": "user", "content": f"  tell me about the NUMBER {n} please"}
        more = [{"role": "assistant", "content": "Sure."}, {"role": "user", "content": "More!"}]
        answer = {"role": "assistant", "content": "It is a number."}
        system = {"role": "system", "content": f"Be brief ({n})."}
        rows += [[first, answer], [spelt, answer], [system, first, *more, answer]]
    written(
        tmp_path, [{"messages": messages, "meta": {"n": i // 3}} for i, messages in enumerate(rows)]
    )
    train, held_out = (
        {row.meta["n"] for row in source(tmp_path, take_held_out=held).load().rows}
        for held in (False, True)
    )
    assert len(train) + len(held_out) == 60
    assert held_out


def test_a_window_is_taken_first_and_then_parted(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
    for keys in ({"limit": 50}, {"skip": 20, "limit": 50}, {"shuffle_seed": 1, "limit": 50}):
        whole = asked(source(tmp_path, held_out=0.0, **keys).load().rows)
        train, held_out = both(tmp_path, **keys)
        assert len(train) + len(held_out) == 50
        assert [row for row in whole if row in held_out] == held_out
        assert [row for row in whole if row in train] == train


def test_sub_mixes_are_parted_too() -> None:
    parts = [
        Flan("bezoar:tasks.jsonl", per_submix=10, held_out=0.3, take_held_out=held).load().rows
        for held in (False, True)
    ]
    whole = Flan("bezoar:tasks.jsonl", per_submix=10).load().rows
    assert {row.id for row in parts[0]} | {row.id for row in parts[1]} == {row.id for row in whole}
    assert len(parts[0]) + len(parts[1]) == len(whole)
    assert parts[1]


def test_the_parts_are_stages_and_both_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*ROWS, ROWS[0], {"prompt": "empty?", "response": ""}]
    (written(tmp_path, rows) / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    lines = bezoar("plan", "r.yaml").splitlines()
    planned = {line.split()[0]: line for line in lines if line.strip()}
    told = bezoar("run", "r.yaml")
    train, held_out = (
        json.loads((tmp_path / "runs/parts" / name / "stats.json").read_text())
        for name in ("01-chats", "02-chats.held_out")
    )
    assert train["rows_out"] + held_out["rows_out"] == 200
    assert (train["other_part"], held_out["other_part"]) == (
        held_out["rows_out"],
        train["rows_out"],
    )
    # a dropped row has no side: it counts once, with the rows to train on
    assert train["dropped"] == {"duplicate": 1, "empty answer": 1}
    assert held_out["dropped"] == {}
    assert train["rows_in"] == train["rows_out"] + 2
    assert f"{train['rows_out']} rows of {train['rows_in']}; {held_out['rows_out']} rows in" in told
    assert str(held_out["rows_out"]) in planned["chats.held_out"].split()
    assert "What is" in bezoar("rows", "runs/parts", "chats.held_out", "-n", 1)
    assert "is current" in bezoar("why", "r.yaml", "chats.held_out")
    assert "is best" not in told


def test_other_stages_read_a_part_by_its_name(tmp_path: Path) -> None:
    judged = "  kept: {kind: dedup, rows: chats.held_out}\n"
    (tmp_path / "r.yaml").write_text(RECIPE + judged)
    recipe = load_recipe(tmp_path / "r.yaml")
    assert list(recipe.stages) == ["chats", "chats.held_out", "kept"]
    assert recipe.upstream("kept") == ["chats.held_out"]


@pytest.mark.parametrize(
    ("keys", "rows", "fault"),
    [
        ("", "chats.held_out", r"add `held_out: 0.1` to chats\."),
        (", held_out: 0.1", "chats-held-out", r"did you mean chats\.held_out\?"),
        (", held_out: 1.0", "chats", "held_out: must be less than 1"),
        (", held_out: -0.1", "chats", "held_out: must be greater than or equal to 0"),
        (", take_held_out: true", "chats", "no effect without held_out"),
    ],
)
def test_a_wrong_part_is_told_in_one_sentence(
    tmp_path: Path, keys: str, rows: str, fault: str
) -> None:
    source = f"  chats: {{kind: jsonl, path: rows.jsonl{keys}}}\n"
    kept = f"  kept: {{kind: dedup, rows: {rows}}}\n"
    (tmp_path / "r.yaml").write_text(f"name: parts\nstages:\n{source}{kept}")
    with pytest.raises(RecipeError, match=fault):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("held", "fault"),
    [(False, "for training, lower it"), (True, "for the held-out part, raise it")],
)
def test_a_part_without_rows_says_so_when_it_is_planned(
    tmp_path: Path, held: bool, fault: str
) -> None:
    # every row on the other side
    prompt = both(written(tmp_path, ROWS))[not held][0]
    written(tmp_path, [{"prompt": prompt, "response": f"answer {n}"} for n in range(9)])
    assert source(tmp_path, take_held_out=not held).count() == 9
    with pytest.raises(DataError, match=rf"held_out 0\.2 leaves none of 9 rows {fault}"):
        source(tmp_path, take_held_out=held).count()
