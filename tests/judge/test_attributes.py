"""The annotating judge: what it reads, how ratings are parsed, kept, and dropped."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from bezoar.chat.ratings import Ratings
from bezoar.chat.types import Chat, Message
from bezoar.cost import exactly
from bezoar.errors import RecipeError
from bezoar.judge.attributes import (
    Attributes,
    expected_level,
    most_agreeing,
    read_attributes,
    read_rating,
)
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.accept_reject import Unparsed

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def chat(name: str) -> Chat:
    return Chat(
        name,
        (Message("user", "Name a bird."), Message("assistant", f"Robin {name}.")),
        {"source": "here"},
    )


def said(helpfulness: int, others: int = 2) -> str:
    return "\n".join(
        f"{name}: {helpfulness if name == 'helpfulness' else others}" for name in NAMES
    )


def by_row(replies: dict[str, list[str]], seen: list[Request] | None = None) -> Ask:
    """Rating k of a row (by its seed) is the k-th of its replies."""

    def ask(requests: Sequence[Request]) -> list[Reply]:
        if seen is not None:
            seen.extend(requests)
        return [
            Reply(
                next(
                    texts[r.seed]
                    for name, texts in replies.items()
                    if f"Robin {name}." in r.messages[0].content
                )
            )
            for r in requests
        ]

    return ask


def test_the_mean_of_three_ratings_rounded() -> None:
    seen: list[Request] = []
    judged = Attributes("rows", "judge").judge_rows(
        [chat("a")], by_row({"a": [said(4, 1), said(3, 2), said(3, 2)]}, seen)
    )
    (row,) = judged.accepted
    assert row.meta["attributes"] == {
        "helpfulness": 3,
        "correctness": 2,
        "coherence": 2,
        "complexity": 2,
        "verbosity": 2,
    }
    assert [r["helpfulness"] for r in row.meta["ratings"]] == [4, 3, 3]
    assert row.meta["source"] == "here"
    assert [r.seed for r in seen] == [0, 1, 2]
    text = seen[0].messages[0].content
    assert "[Response]\nRobin a." in text
    assert all(f"\n{name}: " in text for name in NAMES)
    assert "{" not in text


def test_wide_ratings_are_asked_twice_more_and_the_most_agreeing_kept() -> None:
    seen: list[Request] = []
    replies = {
        "a": [said(0), said(4), said(4), said(3), said(4)],  # kept: 4, 4, 4
        "b": [said(0), said(1), said(4), said(4), said(0)],  # kept: 0, 1, 0
        "c": [said(2), said(2), said(4)],  # spread 2: no more
    }
    judged = Attributes("rows", "judge").judge_rows([chat(n) for n in "abc"], by_row(replies, seen))
    assert [row.meta["attributes"]["helpfulness"] for row in judged.accepted] == [4, 0, 3]
    assert [len(row.meta["ratings"]) for row in judged.accepted] == [5, 5, 3]
    assert len(seen) == 9 + 4


def test_a_spread_above_2_is_rejected() -> None:
    judged = Attributes("rows", "judge", repeats=2).judge_rows(
        [chat("a")], by_row({"a": [said(0), said(3), "?", "?"]})
    )
    assert [(row.meta["verdict"], row.meta["reason"]) for row in judged.rejected] == [
        ("spread", "helpfulness 0, 3")
    ]
    assert not judged.accepted


def test_most_agreeing_by_the_first_attribute_then_by_all() -> None:
    ratings = [{"a": 1, "b": 0}, {"a": 1, "b": 4}, {"a": 2, "b": 0}, {"a": 2, "b": 1}]
    # every three with both a = 1 has a spread of 1 in a; b spreads by 4, 4, 1 or 4
    assert most_agreeing(ratings, ["a", "b"]) == [ratings[0], ratings[2], ratings[3]]


def test_a_row_whose_judge_was_refused_failed() -> None:
    refused = Reply(finish="error", error="the server answered 400: too long", failure="refused")
    by_words, by_digits = (
        Attributes("rows", "judge"),
        Attributes("rows", "judge", verdict="logprob", repeats=1),
    )
    for filtered in (by_words, by_digits):
        judged = filtered.judge_rows([chat("a")], lambda requests: [refused] * len(requests))
        (row,) = judged.unparsed
        assert row.meta["verdict"] == "failed"
        assert row.meta["reason"] == "failed: the server answered 400: too long"


def test_too_few_readable_ratings_leave_a_row_unparsed() -> None:
    judged = Attributes("rows", "judge").judge_rows(
        [chat("a")], by_row({"a": [said(3), "I like it.", said(3)]})
    )
    assert [row.meta["reason"] for row in judged.unparsed] == [
        "no level of helpfulness: I like it."
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**A**: 3\nb = 0", {"a": 3, "b": 0}),
        ('{"a": 4, "b": 1}', {"a": 4, "b": 1}),
        ("a: 2/4\nb: 1.", {"a": 2, "b": 1}),
        ("a: 2\nb: 1\na: 2", {"a": 2, "b": 1}),
        ("a: 2\nb: 1\na: 3", "several levels of a"),
        ("a: 5\nb: 1", "the level of a is 5"),
        ("a: 2.5\nb: 1", "the level of a is 2.5"),
        ("a: -1\nb: 1", "the level of a is -1"),
        ("a: 2, beta: 3", "no level of b"),
        ('> a: 4\na: 1\nb: 1, not "b: 4"', {"a": 1, "b": 1}),
        ("```\na: 4\nb: 4\n```", "no level of a"),
        ("", "no level of a"),
    ],
)
def test_reading_a_rating(text: str, expected: dict[str, int] | str) -> None:
    found = read_rating(Reply(text), ["a", "b"])
    assert (found.why if isinstance(found, Unparsed) else found) == expected


def test_a_failed_request_is_unparsed() -> None:
    for found in (
        read_rating(Reply(finish="error", error="timeout"), ["a"]),
        expected_level(Reply(finish="error", error="timeout")),
    ):
        assert found == Unparsed("", "failed: timeout")


def test_weak_judges_by_the_digits() -> None:
    seen: list[Request] = []

    def ask(requests: Sequence[Request]) -> list[Reply]:
        seen.extend(requests)
        # probabilities 1/2 for level 1 and 1/6 each for 2, 3, 4 of what is said at all
        return [
            Reply(
                "1",
                logprobs=(
                    -math.inf if r.prefill == "verbosity: " else -50.0,
                    -1.0,
                    *[-1.0 - math.log(3)] * 3,
                ),
            )
            for r in requests
        ]

    weak = Attributes("rows", "judge", verdict="logprob", repeats=1)
    assert [row.meta["reason"] for row in weak.judge_rows([chat("a")], ask).unparsed] == [
        "no log-probabilities of the five levels: 1"
    ]
    assert [(r.prefill, r.choices) for r in seen] == [
        (f"{name}: ", ("0", "1", "2", "3", "4")) for name in NAMES
    ]
    assert "correctness" not in seen[0].messages[0].content
    assert expected_level(ask(seen[:1])[0]) == pytest.approx((1 + (2 + 3 + 4) / 3) / 2)


def test_settings_and_definitions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repeats: 1"):
        Attributes("rows", "judge", verdict="logprob")
    with pytest.raises(ValueError, match="repeats: 1"):
        Attributes("rows", "judge", temperature=0.0)
    assert tuple(a.name for a in read_attributes("bezoar:attributes.jsonl")) == NAMES
    with pytest.raises(RecipeError, match=r"preferences_test.jsonl:1: a definition has"):
        read_attributes("bezoar:preferences_test.jsonl")
    with pytest.raises(RecipeError, match=r"^definitions none\.jsonl: no such file"):
        read_attributes("none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RecipeError, match=r"empty.jsonl: the file defines no attribute"):
        read_attributes(str(tmp_path / "empty.jsonl"))


def test_quote() -> None:
    _, ((_, text),) = Attributes("rows", "judge").quote({"rows": exactly(10)})
    _, ((_, digits),) = Attributes("rows", "judge", verdict="logprob", repeats=1).quote(
        {"rows": exactly(10)}
    )
    assert (text.num, digits.num) == (exactly(30), exactly(50))


def test_agreement_of_a_judge_with_itself() -> None:
    from bezoar.evals.agreement import ratings_agreement

    replies = {
        "a": [said(0), said(1), said(0)],
        "b": [said(4), said(3), said(4)],
        "c": [said(0), said(4), said(2), "?", "?"],
        "d": ["?"] * 3,
    }
    judged = Attributes("rows", "judge").judge_rows([chat(n) for n in "abcd"], by_row(replies))
    ratings = Ratings()
    for row in (*judged.accepted, *judged.rejected, *judged.unparsed):
        ratings.add(row)
    found = {s.name: s for s in ratings_agreement(ratings)}
    # helpfulness: first 0 4 0, second 1 3 4; observed cost (1 + 1 + 16) / 3, by chance the mean of
    # the nine: (1 + 9 + 16) * 2 + 9 + 1 + 0, by 9
    assert found["kappa/helpfulness"].value == pytest.approx(1 - 6 / (62 / 9))
    assert found["kappa/helpfulness"].n == 3
    assert found["kappa/verbosity"].value is None, "no two levels differ"
