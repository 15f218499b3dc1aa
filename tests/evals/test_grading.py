"""Grades: what the judge is asked, and how its reply is read, by hand; every failure by its
name."""

import math

import pytest

from bezoar.chat.types import Message
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.rating import (
    CHOICES,
    Rating,
    expected_rating,
    fastchat_rating,
    grade_request,
    parse_rating,
    read_grade,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[1]]", 1.0),
        ("[[10]]", 10.0),
        ("so [[7.5]]", 7.5),
        ("[[ 7. / 10 ]]", 7.0),
        ("[[7]] and again [[7.0]]", 7.0),
        ("Rating: [6]", 6.0),
        ("**Score** is [6]", 6.0),
        (" [4].", 4.0),
        ("See [1]. Rating: [6]", 6.0),
        ("[[3]] Rating: [6]", 3.0),
        ("> [[9]]\n[[3]]", 3.0),
        ("[[7/10]]", 7.0),
        ("GRADE=[6]", 6.0),
        ("_Score_ _is_ [ 6 ]", 6.0),
        ("__Rating:__ **[6]**", 6.0),
        ("Rating: _[6]_", 6.0),
        ("[4]", 4.0),
        ("\n [ 4 ] .\n", 4.0),
    ],
)
def test_a_rating(text: str, value: float) -> None:
    assert parse_rating(text) == read_grade(Reply(text), "text") == Rating(value, "", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unparsed"),
        ("7", "unparsed"),
        ("See [1]. It is good.", "unparsed"),
        ("[[6]] or [[7]]", "unparsed"),
        ("Rating: [6], score: [7]", "unparsed"),
        ("`[[6]]`", "unparsed"),
        ("[[0]]", "out of range"),
        ("[[0.99]]", "out of range"),
        ("[[10.01]]", "out of range"),
        ("[[-3]]", "out of range"),
        ("It is [6]].", "unparsed"),
        ("It is [[6].", "unparsed"),
        ("Rating: [6]]", "unparsed"),
        ("Overrating: [6]", "unparsed"),
        ("self_rating: [6]", "unparsed"),
        ("[6] out of 10", "unparsed"),
    ],
)
def test_no_rating(text: str, reason: str) -> None:
    assert parse_rating(text) == read_grade(Reply(text), "text") == Rating(None, reason, text)


def test_the_reading_of_fastchat() -> None:
    for text, value in (
        ("[[6]] or [[7]]", 6.0),
        ("See [1]. Rating: [6]", 1.0),
        ("[[77]]", 77.0),
        ("> [[9.5]]\n[[3]]", 9.5),
        ("[2] [[8.]]", 8.0),
        ("[2] [[12]]", 12.0),
        ("[2] [[12.5]]", 12.5),
        ("[2] [8]]", 2.0),
        ("[2] [[8]", 2.0),
        ("8] [2]", 2.0),
        ("[8 [2]", 2.0),
        ("[12.5]", 12.5),
    ):
        assert (
            fastchat_rating(text) == read_grade(Reply(text), "fastchat") == Rating(value, "", text)
        )
    for text in ("", "7", "[[six]]", "[[" + "9" * 400 + "]]"):
        assert fastchat_rating(text) == Rating(None, "unparsed", text)
    assert read_grade(Reply("[[6]] or [[7]]"), "text").value is None


def test_what_the_judge_is_asked() -> None:
    assert (
        grade_request("How good?", "text", 99)
        == grade_request("How good?", "fastchat", 99)
        == Request((Message("user", "How good?"),), max_tokens=99)
    )
    wanted = Request(
        (Message("user", "How good?"),),
        max_tokens=1,
        prefill="Rating: [[",
        choices=tuple(f"{n}]]" for n in range(1, 11)),
    )
    assert grade_request("How good?", "logprob", 99) == wanted
    assert len(CHOICES) == 10


@pytest.mark.parametrize("verdict", ["text", "fastchat", "logprob"])
def test_a_failed_request_is_no_rating(verdict: str) -> None:
    failed = Reply("[[6]]", "error", error="the connection broke")
    assert read_grade(failed, verdict) == Rating(None, "error", "the connection broke")  # type: ignore[arg-type]


@pytest.mark.parametrize("verdict", ["text", "fastchat"])
def test_a_reply_that_was_cut_off_counts_if_its_rating_is_there(verdict: str) -> None:
    assert read_grade(Reply("The answer", "length"), verdict) == Rating(
        None, "cut off", "The answer"
    )  # type: ignore[arg-type]
    assert read_grade(Reply("[[6]] for it", "length"), verdict) == Rating(6.0, "", "[[6]] for it")  # type: ignore[arg-type]
    assert read_grade(Reply("The answer", "stop"), verdict) == Rating(
        None, "unparsed", "The answer"
    )  # type: ignore[arg-type]


def test_the_expected_rating_by_hand() -> None:
    # 3/4 for 2 and 1/4 for 10, both all but impossible: only their shares count
    logprobs = [-5000.0] * 10
    logprobs[1], logprobs[9] = -2000.0 + math.log(3), -2000.0
    assert expected_rating(logprobs) == Rating(
        pytest.approx(4.0),
        "",
        "p(1..10) = 0.000 0.750 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.250",
    )  # type: ignore[arg-type]
    assert read_grade(Reply("x", "length", tuple(logprobs)), "logprob").value == pytest.approx(4.0)
    assert expected_rating([-1.0] * 10).value == pytest.approx(5.5)


@pytest.mark.parametrize(
    "logprobs", [[], [-1.0] * 9, [-1.0] * 11, [-1.0] * 9 + [-math.inf], [math.nan] + [-1.0] * 9]
)
def test_ratings_without_their_probabilities(logprobs: list[float]) -> None:
    assert expected_rating(logprobs) == Rating(
        None, "error", "the judge gave no log-probabilities of the ten ratings"
    )
