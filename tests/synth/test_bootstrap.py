"""SteerLM's bootstrap: levels of good answers, drawn, told, and left out again."""

from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.model.completions import draw_completions
from bezoar.model.spec import ModelSpec, Sampling
from bezoar.model.stack import Stack
from bezoar.synth.bootstrap import Bootstrap
from tests.helpers.toy_context import ToyContext


def labelled(*tables: dict[str, float] | None) -> list[Any]:
    messages = (Message("user", "hi"), Message("assistant", "ho"))
    return [Chat(f"l{i}", messages, {"attributes": table}) for i, table in enumerate(tables)]


def test_levels_are_those_of_the_best_chats_each_once() -> None:
    rows = labelled(
        {"helpfulness": 3, "verbosity": 1},
        {"helpfulness": 2.5, "verbosity": 4},  # rounds to 3
        {"verbosity": 1, "helpfulness": 3.2},
        {"helpfulness": 2, "verbosity": 0},
        {"verbosity": 4},
        None,
    )
    stage = Bootstrap("s", "l", "m")
    assert stage.tables(rows) == [
        {"helpfulness": 3, "verbosity": 1},
        {"helpfulness": 3, "verbosity": 4},
    ]
    with pytest.raises(DataError, match="l: no chat has a level of quality; name a stage"):
        Bootstrap("s", "l", "m", best="quality").tables(rows)


def test_a_chat_is_the_plain_prompt_with_an_answer_under_its_levels(tiny_model: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    answers = Sampling(1.0, 1.0, 6, 50)
    seeds: list[Any] = [Chat(f"c{i}", (Message("user", "hello " * (i + 1)),)) for i in range(20)]
    levels = labelled({"helpfulness": 4, "verbosity": 0}, {"helpfulness": 4, "verbosity": 3})

    class Context(ToyContext):
        def rows(self, name: str) -> list[Any]:
            return {"s": seeds, "l": levels}[name]

    stage = Bootstrap("s", "l", "m", answers=answers)
    found = stage.sample(seeds, Context(lambda name: stack, seed=3))
    assert len(found.rows) + len(found.dropped) == 20
    assert {row.meta["asked"] for row in found.rows} == {
        "helpfulness:4,verbosity:0",
        "helpfulness:4,verbosity:3",
    }
    by_id = {row.id: row for row in seeds}
    for row in found.rows[:3]:
        assert row.prompt == by_id[row.id].prompt
        told = (Message("system", row.meta["asked"]), *row.prompt)
        drawn = draw_completions(stack, ChatML(), [told], answers, num=1, seed=3)[0]
        assert drawn is not None
        [(text, ended)] = drawn
        assert row.answer == text
        assert row.meta.get("ended", True) == ended
    # a row's levels and answer do not depend on the other rows
    alone = stage.sample(seeds[4:5], Context(lambda name: stack, seed=3))
    assert alone.rows == [row for row in found.rows if row.id == "c4"]
