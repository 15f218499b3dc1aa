"""Replies that were written to break whoever reads them: every parser gives an answer, and soon."""

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bezoar.data.critiques import parse_critique, parse_revision
from bezoar.judge.attributes import read_rating
from bezoar.judge.heuristics import is_loop, is_refusal, is_unfinished
from bezoar.llm.types import Reply
from bezoar.synth.evolution import read_equality
from bezoar.synth.examples import clean, parse_examples
from bezoar.verdicts.accept_reject import parse_verdict
from bezoar.verdicts.own_words import own_words
from bezoar.verdicts.pairwise import parse_side
from bezoar.verdicts.rating import fastchat_rating, parse_rating

PARSERS: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "own_words": (own_words, ("",)),
    "verdict": (parse_verdict, ("Accept", "Verdict:", "my ")),
    "side": (parse_side, ("[[", "[[A")),
    "rating": (parse_rating, ("[[7", "Rating:")),
    "fastchat": (fastchat_rating, ("[[7",)),
    "attributes": (
        lambda text: read_rating(Reply(text), ("helpfulness", "verbosity")),
        ("helpfulness",),
    ),
    "critique": (parse_revision, ("Critique", "Critique:\n", "Critique:\nRevision")),
    "critique alone": (parse_critique, ("\nRevision",)),
    "examples": (
        lambda text: parse_examples(text, cut=True),
        ("<", "<example>", "\nanswer", "1. ", "task"),
    ),
    "clean": (clean, ("task", "1. ")),
    "equality": (read_equality, ("not", "equal")),
    "refusal": (is_refusal, ("I'm sorry",)),
    "loop": (is_loop, ("",)),
    "unfinished": (is_unfinished, ("",)),
}
RUNS = (
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\u00a0",
    "*",
    "_",
    "#",
    ">",
    "[",
    "]",
    "(",
    ":",
    ".",
    ";",
    "-",
    "=",
    "`",
    "'",
    '"',
    "“",
    "”",
    "‘",
    "’",
    "«",
    "7",
    "9.",
    "a",
    "\\",
    "/",
    "| ",
    "> ",
    "* ",
    "` ",
    "'a",
    " 'a",
    "_'a",
    '"a ',
    "“a",
    "[[ ",
    "[[7 ",
    "a\n",
    " \n",
    "\n ",
    "\n\n    ",
    "~~~\n",
    "```\n",
    "Accept ",
    "; accept",
    "Reject: ",
    "- ",
    "- - ",
    "1. ",
    "verdict ",
    "my ",
    "\ufffc",
    "\u200b",
    "\x00",
    "é",
    "\U0001f600",
    "\ud800",
)


@pytest.mark.parametrize("parser", PARSERS)
def test_time_is_in_proportion_to_the_reply(parser: str) -> None:
    """10,000 characters of every run behind and before a word: 2 s in the reading that was
    quadratic, at most 0.02 s in this one."""
    read, words = PARSERS[parser]
    slowest = (0.0, "")
    for word, run in product(words, RUNS):
        text = run * (10_000 // len(run))
        for reply in (word + text + "x", text + word):
            started = time.process_time()
            read(reply)
            slowest = max(slowest, (time.process_time() - started, f"{word!r} {run!r}"))
    assert slowest[0] < 0.3, slowest


def test_long_replies_are_read_in_a_second_or_two() -> None:
    started = time.process_time()
    for run in (" ", "\n", '"', "`", "Accept, ", "[[A]] "):
        parse_verdict("Accept" + run * (200_000 // len(run)))
    assert time.process_time() - started < 10


PIECES = st.sampled_from(
    [word for _, words in PARSERS.values() for word in words] + list(RUNS[:-1])
) | st.text(max_size=5)


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=30, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_reply_breaks_a_parser(parser: str, reply: str) -> None:
    PARSERS[parser][0](reply)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_masked_words_keep_their_places(reply: str) -> None:
    own = own_words(reply)
    assert len(own) == len(reply)
    assert [c == "\n" for c in own] == [
        c == "\n" for c in reply.replace("\r\n", " \n").replace("\r", "\n")
    ]
