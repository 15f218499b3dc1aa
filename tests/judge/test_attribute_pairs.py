"""Pairs from labelled answers: which is chosen, what is dropped."""

from dataclasses import replace
from typing import Any

import pytest

from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.judge.attribute_stages import AttributePairs


def chat(name: str, prompt: str, **attributes: Any) -> Chat:
    return Chat(
        name,
        (Message("user", prompt), Message("assistant", f"answer {name}")),
        {"attributes": attributes},
    )


ROWS = [
    chat("a", "one", helpfulness=1, verbosity=0),
    chat("b", "two", helpfulness=2, verbosity=3),
    chat("c", "one", helpfulness=4, verbosity=0),
    chat("d", "two", helpfulness=2, verbosity=1),
    chat("e", "three", helpfulness=0, verbosity=0),
    chat("f", "one", helpfulness=3, verbosity=2),
]


def test_the_more_helpful_answer_is_chosen() -> None:
    sifted = AttributePairs("rows").sift(ROWS)
    (pair,) = sifted.rows
    assert (pair.id, pair.chosen, pair.rejected) == ("c", "answer c", "answer a")
    assert pair.prompt == (Message("user", "one"),)
    assert pair.meta == {"strength": 3.0, "chosen": "c", "rejected": "a"}
    assert [(d.id, d.reason) for d in sifted.dropped] == [("b", "tie"), ("e", "no second answer")]


def test_other_weights_choose_otherwise() -> None:
    pairs = AttributePairs("rows", {"helpfulness": 1.0, "verbosity": -1.5}).sift(ROWS).rows
    # one: a 1, c 4, f 0; two: b -2.5, d 0.5
    assert [(p.id, p.meta["rejected"], p.meta["strength"]) for p in pairs] == [
        ("c", "f", 4.0),
        ("d", "b", 3.0),
    ]


def test_rows_without_the_attribute_are_refused() -> None:
    with pytest.raises(DataError, match=r"row g: it lacks .* correctness"):
        AttributePairs("rows", {"correctness": 1.0}).sift([chat("g", "p", helpfulness=1)])
    with pytest.raises(DataError, match="row h: it lacks"):
        AttributePairs("rows").sift(
            [replace(chat("h", "p", helpfulness=1), meta={"attributes": ["helpfulness"]})]
        )
    with pytest.raises(ValueError, match="at least one"):
        AttributePairs("rows", {})
