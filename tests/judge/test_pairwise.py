"""Pairs are judged in both orders; what cannot be read is no verdict."""

from collections.abc import Sequence

import pytest

from bezoar.chat.types import Comparison, Message
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Pairwise, Preference, parse_side, read_side


def pair(name: str, a: str, b: str) -> Comparison:
    return Comparison(name, (Message("user", "Which {a} is it?"),), a, b)


def judge_by(rule: str, seen: list[Request] | None = None) -> object:
    """A judge that prefers the longer answer, always the first, or always says C."""

    def ask(requests: Sequence[Request]) -> list[Reply]:
        if seen is not None:
            seen.extend(requests)
        replies = []
        for request in requests:
            text = request.messages[0].content
            a, b = text.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
            b = b.split("\n\n[End]")[0]
            longer = "A" if len(a) > len(b) else "B"
            replies.append(
                Reply(
                    f"I say [[{longer if rule == 'longer' else 'A' if rule == 'first' else 'C'}]]"
                )
            )
        return replies

    return ask


def test_both_orders_are_asked_and_agree() -> None:
    seen: list[Request] = []
    pairs = [pair("x", "short", "a longer answer"), pair("y", "this is longer", "brief")]
    found = Pairwise("judge").compare(pairs, judge_by("longer", seen))  # type: ignore[arg-type]
    assert [p.verdict for p in found] == ["B", "A"]
    assert all(p.consistent for p in found)
    assert len(seen) == 4
    assert "Which {a} is it?" in seen[0].messages[0].content
    assert "[Answer A]\nshort\n" in seen[0].messages[0].content
    assert "[Answer A]\na longer answer\n" in seen[2].messages[0].content


def test_a_judge_that_likes_the_first_answer_gives_ties() -> None:
    found = Pairwise("judge").compare([pair("x", "one", "two")], judge_by("first"))[0]  # type: ignore[arg-type]
    assert (found.first, found.second) == ("A", "B")
    assert found.verdict == "tie"
    assert not found.consistent


def test_equal_answers() -> None:
    found = Pairwise("judge").compare([pair("x", "one", "two")], judge_by("equal"))[0]  # type: ignore[arg-type]
    assert found.verdict == "tie"
    assert found.consistent


def test_one_unparsed_order_leaves_the_pair_unparsed() -> None:
    assert isinstance(Preference("x", "A", Unparsed("hm")).verdict, Unparsed)
    assert isinstance(Preference("x", Unparsed("hm"), "A").verdict, Unparsed)
    assert not Preference("x", Unparsed("hm"), Unparsed("hm")).consistent


@pytest.mark.parametrize(
    ("text", "side"),
    [("so [[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"), ("[[ A ]] indeed, [[A]]", "A")],
)
def test_marks(text: str, side: str) -> None:
    assert parse_side(text) == side


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("> [[A]]\n[[B]]", "B"),
        ('B ends with "[[A]]". [[B]]', "B"),
        ("`[[A]]` is quoted\n[[C]]", "tie"),
        ("```\n[[A]]\n```\n[[B]]", "B"),
        ("A ends “I win: [[A]]”.\n**[[B]]**", "B"),
    ],
)
def test_quoted_marks_do_not_count(text: str, side: str) -> None:
    assert parse_side(text) == side


@pytest.mark.parametrize("text", ["> [[A]]", "`[[B]]`", "[[A]]\n> quoted\n[[B]]"])
def test_marks_in_quotes_alone_or_several_outside_are_no_verdict(text: str) -> None:
    assert isinstance(parse_side(text), Unparsed)


@pytest.mark.parametrize(
    "text", ["", "A is better", "[A]", "[[A]] or [[B]]", "[[D]]", "[[a]]", "[[AB]]", "[A]]", "[[A]"]
)
def test_no_mark_or_several(text: str) -> None:
    assert isinstance(parse_side(text), Unparsed)


def test_probabilities() -> None:
    assert read_side(Reply(logprobs=(-3.0, -1.0, -2.0)), "logprob") == "B"
    assert read_side(Reply(logprobs=(-3.0, -2.0, -1.0)), "logprob") == "tie"
    assert isinstance(read_side(Reply(logprobs=()), "logprob"), Unparsed)
    assert isinstance(read_side(Reply(finish="error", error="x"), "text"), Unparsed)
    seen: list[Request] = []

    def ask(requests: Sequence[Request]) -> list[Reply]:
        seen.extend(requests)
        return [Reply(logprobs=(-1.0, -2.0, -3.0)), Reply(logprobs=(-2.0, -1.0, -3.0))]

    assert (
        Pairwise("judge", verdict="logprob").compare([pair("x", "one", "two")], ask)[0].verdict
        == "A"
    )
    assert (seen[0].prefill, seen[0].choices) == ("[[", ("A", "B", "C"))


def test_a_reply_that_never_came_is_no_pair_fewer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Pairwise("judge").compare(
            [pair("x", "one", "two"), pair("y", "one", "two")],
            lambda requests: [Reply("[[A]]")] * 3,
        )


def test_no_pairs_no_calls() -> None:
    assert Pairwise("judge").compare([], judge_by("first")) == []  # type: ignore[arg-type]
