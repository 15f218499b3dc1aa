"""Filters without a judge: form and repetition."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import pytest

from bezoar.chat.types import AnyRow, Chat, Message
from bezoar.errors import RecipeError
from bezoar.judge.heuristics import Dedup, Form, is_loop, is_refusal, is_unfinished
from tests.helpers.loaded import loaded


def chat(name: str, answer: str, prompt: str = "Name a bird.") -> Chat:
    return Chat(name, (Message("user", prompt), Message("assistant", answer)))


LONG = "This is a sentence of rather many words that goes on and on and on without"


def test_reasons() -> None:
    rows = [
        chat("ok", "The robin."),
        chat("empty", "  \n"),
        chat("refusal", "I'm sorry, but I can't help with that."),
        chat("unfinished", LONG),
        chat("long", " ".join(f"word{i}" for i in range(60)) + "."),
    ]
    sifted = Form("rows", max_words=50).sift(rows)
    assert [row.id for row in sifted.rows] == ["ok"]
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("empty", "empty"),
        ("refusal", "refusal"),
        ("unfinished", "unfinished"),
        ("long", "too long"),
    ]
    turns = (Message("user", "Name a bird."), Message("assistant", " "), *rows[0].messages)
    broken = [replace(rows[0], messages=turns), replace(rows[0], messages=turns[2:] + turns[3:])]
    faults = [dropped.reason for dropped in Form("rows").sift(broken).dropped]
    assert faults == ["empty turn", "two turns in a row"]
    assert [d.reason for d in Form("rows", max_prompt_words=2).sift(rows[:1]).dropped] == [
        "long prompt"
    ]
    assert not Form("rows", max_prompt_words=3).sift(rows[:1]).dropped
    lenient = Form("rows", refusals=False, unfinished=False).sift(rows)
    assert [d.id for d in lenient.dropped] == ["empty"]
    assert [d.reason for d in Form("rows", min_words=3).sift(rows[:1]).dropped] == ["too short"]


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no feelings.",
        "I'm sorry for the misunderstanding, but as a chatbot I cannot see it.",
        "I cannot do that.",
        "Unfortunately, I am unable to open files.",
        "Sorry, but I can’t.",
        "I’m afraid that is not possible.",
    ],
)
def test_refusals(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Sorry is a game for two to four players.",
        "She said: I cannot do that.",
        "Canada is big.",
        "Unfortunately, it rained all day.",
        "An AI is a program.",
    ],
)
def test_no_refusals(answer: str) -> None:
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    ("answer", "unfinished"),
    [
        (LONG, True),
        (LONG + " an end.", False),
        (LONG + ' "an end"', False),
        (LONG + " an end.\n- last point", False),
        (LONG + " an end.\n3. last point", False),
        ("Paris", False),
        (LONG + ":\n```python\nprint(1)", True),
        (LONG + ":\n```python\nprint(1)\n```", False),
        ("这是一个很长的句子。", False),
    ],
)
def test_unfinished(answer: str, unfinished: bool) -> None:
    assert is_unfinished(answer) == unfinished


def test_loops() -> None:
    again = "A lake is a lake and a river is a river. "
    assert is_loop(again * 4)
    assert not is_loop(again * 2), "18 words are too few to say"
    assert not is_loop(" ".join(f"word{i}" for i in range(40)))
    assert not is_loop(
        "the cat and the dog and the bird and the fish and the cow and the horse and the hen and"
        " the pig"
    )
    assert [d.reason for d in Form("rows").sift([chat("a", again * 9)]).dropped] == ["loop"]
    assert not Form("rows", loops=False).sift([chat("a", again * 9)]).dropped


def test_near_duplicates() -> None:
    rows = [
        chat("a", "one", "Write a short poem about the sea in winter."),
        chat("b", "two", "Write a short poem about the sea in winter!"),
        chat("c", "one", "How do I boil an egg?"),
        chat("d", "three", "write a short poem about the SEA in winter"),
    ]
    sifted = Dedup("rows").sift(rows)
    assert [row.id for row in sifted.rows] == ["a", "c"]
    assert Counter(d.reason for d in sifted.dropped) == {"near duplicate": 2}
    assert "as a, 1.00" in sifted.dropped[0].detail
    assert [row.id for row in Dedup("rows", on="answer").sift(rows).rows] == ["a", "b", "d"]


def test_a_threshold_out_of_reach() -> None:
    with pytest.raises(RecipeError, match=r"0\.5"):
        loaded(Dedup("rows", near_duplicate=0.3))
    with pytest.raises(ValueError, match="min_words"):
        Form("rows", min_words=9, max_words=3)


class Made:
    """Rows that are made whenever they are gone through, and how many there were at once."""

    def __init__(self, num: int) -> None:
        self.num, self.alive, self.most = num, WeakSet[Chat](), 0

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[AnyRow]:
        for number in range(self.num):
            row = Unhashed(str(number), (Message("user", f"Name bird {number % 90}."),))
            self.alive.add(row)
            self.most = max(self.most, len(self.alive))
            yield row


class Unhashed(Chat):
    """A chat that a set of those alive may hold, whatever is in its `meta`."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("stage", [Form("rows"), Dedup("rows", near_duplicate=1.0)])
def test_rows_are_not_held(stage: Form | Dedup, tmp_path: Path) -> None:
    rows = Made(3000)
    kept = sum(isinstance(result, Chat) for result in stage.each(rows, tmp_path))
    assert kept == (90 if stage.kind == "dedup" else 0)
    assert rows.most <= 4
