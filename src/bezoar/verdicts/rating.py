"""Grades of a judge: a reply is read as a rating from 1 to 10 or as a failure with its reason."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Message
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.own_words import own_words

Verdict = Literal["text", "logprob", "fastchat"]
LOWEST, HIGHEST = 1, 10
PREFILL = "Rating: [["
CHOICES = tuple(f"{rating}]]" for rating in range(LOWEST, HIGHEST + 1))
_NUMBER = r"(-?\d++(?:\.\d*+)?+)"
_MARKED = re.compile(rf"\[\[\s*+{_NUMBER}\s*+(?:/\s*+10\s*+)?+\]\]")
_NAMED = re.compile(
    rf"\b_*+(?:rating|score|grade)[*_\"'\s]*+(?:is|:|=)[*_\"'\s]*+\[\s*+{_NUMBER}\s*+\](?!\])",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"\s*+\[\s*+{_NUMBER}\s*+\][\s.]*+")
_FASTCHAT = (re.compile(r"\[\[([0-9]++\.?+[0-9]*+)\]\]"), re.compile(r"\[([0-9]++\.?+[0-9]*+)\]"))


@dataclass(frozen=True)
class Rating:
    """A judge's grade. `value` is None for a failure, whose `reason` is error, cut off, unparsed or
    out of range."""

    value: float | None
    reason: str = ""
    text: str = ""


def parse_rating(text: str) -> Rating:
    """The one value of every `[[rating]]` among the judge's own words (`judge.own_words`); from 1
    to 10, decimals count.

    Where there is none, that of every `Rating: [rating]` or of a reply that is nothing but
    `[rating]`: a bracket elsewhere is a citation. Several values are no rating.
    """
    own = own_words(text)
    alone = _ALONE.fullmatch(text)
    found = _MARKED.findall(own) or _NAMED.findall(own) or ([alone[1]] if alone else [])
    values = set(map(float, found))
    if len(values) != 1:
        return Rating(None, "unparsed", text)
    (value,) = values
    return (
        Rating(value, "", text)
        if LOWEST <= value <= HIGHEST
        else Rating(None, "out of range", text)
    )


def fastchat_rating(text: str) -> Rating:
    """FastChat's own reading (`run_judge_single`): the first `[[number]]` anywhere, else the first
    `[number]`, whatever its size.

    Digits are those of ASCII; FastChat breaks off at others.
    """
    found = next((match for pattern in _FASTCHAT if (match := pattern.search(text))), None)
    value = float(found[1]) if found else math.inf
    return Rating(value, "", text) if math.isfinite(value) else Rating(None, "unparsed", text)


def grade_request(prompt: str, verdict: Verdict, max_tokens: int) -> Request:
    """What the judge is asked: to write an assessment (temperature 0), or for the log-probabilities
    of the ten ratings."""
    messages = (Message("user", prompt),)
    if verdict == "logprob":
        return Request(messages, prefill=PREFILL, choices=CHOICES, max_tokens=1)
    return Request(messages, max_tokens=max_tokens)


def read_grade(reply: Reply, verdict: Verdict) -> Rating:
    """The rating in a reply, with `fastchat` by FastChat's rule. With `logprob` it is the expected
    one, sum of r * p(r), p normalised over the ten (our choice)."""
    if reply.finish == "error":
        return Rating(None, "error", reply.error)
    if verdict == "logprob":
        return expected_rating(reply.logprobs)
    rating = fastchat_rating(reply.text) if verdict == "fastchat" else parse_rating(reply.text)
    if rating.value is None and reply.finish == "length":
        return Rating(None, "cut off", reply.text)
    return rating


def expected_rating(logprobs: Sequence[float]) -> Rating:
    """Mean of the ten ratings under softmax(logprobs)."""
    if len(logprobs) != len(CHOICES) or not all(math.isfinite(x) for x in logprobs):
        return Rating(None, "error", "the judge gave no log-probabilities of the ten ratings")
    top = max(logprobs)
    weights = [math.exp(x - top) for x in logprobs]
    mean = math.fsum(w * r for r, w in enumerate(weights, LOWEST)) / math.fsum(weights)
    return Rating(
        mean, "", "p(1..10) = " + " ".join(f"{w / math.fsum(weights):.3f}" for w in weights)
    )
