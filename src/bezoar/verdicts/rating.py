"""Grades of a judge: a rating from 1 to 10, or a failure with its reason."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Message, Messages
from bezoar.llm.types import Reply, Request
from bezoar.verdicts.forms import NOT_OF_FORM, reason_then
from bezoar.verdicts.own_words import own_words

Verdict = Literal["text", "structured", "logprob", "fastchat"]
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
_LAST = re.compile(r"Rating: \[\[([0-9]++)\]\]")
_FASTCHAT = (re.compile(r"\[\[([0-9]++\.?+[0-9]*+)\]\]"), re.compile(r"\[([0-9]++\.?+[0-9]*+)\]"))


@dataclass(frozen=True)
class Rating:
    """A judge's grade; `value` is None for a failure."""

    value: float | None
    reason: str = ""
    """Of a failure: error, cut off, unparsed or out of range."""
    text: str = ""


def parse_rating(text: str) -> Rating:
    """The one value of every `[[rating]]` among the judge's own words, decimals included.

    Without any, that of every `Rating: [rating]` or of a reply that is nothing but `[rating]`: a
    bracket elsewhere is a citation. Several values are no rating.
    """
    # the plainer marks count only where the marked form is absent
    own, bare = own_words(text), _ALONE.fullmatch(text)
    numbers = _MARKED.findall(own) or _NAMED.findall(own) or ([bare[1]] if bare else [])
    values = set(map(float, numbers))
    if len(values) != 1:
        return Rating(None, "unparsed", text)
    value = values.pop()
    if not LOWEST <= value <= HIGHEST:
        return Rating(None, "out of range", text)
    return Rating(value, "", text)


def fastchat_rating(text: str) -> Rating:
    """FastChat's own reading (`run_judge_single`): the first `[[number]]`, else `[number]`.

    It may stand anywhere and have any size. Digits are ASCII's; FastChat breaks off at others.
    """
    double, single = _FASTCHAT
    match = double.search(text) or single.search(text)
    value = float(match[1]) if match else math.inf
    return Rating(value, "", text) if math.isfinite(value) else Rating(None, "unparsed", text)


def grade_request(prompt: str | Messages, verdict: Verdict, max_tokens: int) -> Request:
    """Asks for an assessment (temperature 0), held to its form with `structured`, or for
    log-probabilities of the ten ratings."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if verdict == "logprob":
        return Request(messages, prefill=PREFILL, choices=CHOICES, max_tokens=1)
    form = reason_then(r"Rating: \[\[([1-9]|10)\]\]", "Rating: [[10]]", max_tokens)
    return Request(messages, max_tokens=max_tokens, form=form if verdict == "structured" else None)


def read_grade(reply: Reply, verdict: Verdict) -> Rating:
    """The rating in a reply: by our rule, by FastChat's, or with `logprob` the expected one."""
    if reply.finish == "error":
        return Rating(None, "error", reply.error)
    if verdict == "logprob":
        return expected_rating(reply.logprobs)
    if verdict == "structured":
        last = _LAST.fullmatch(reply.text.rpartition("\n")[2])
        return Rating(float(last[1]) if last else None, "" if last else NOT_OF_FORM, reply.text)
    # a reply that was cut off may hold its rating before the cut
    rating = fastchat_rating(reply.text) if verdict == "fastchat" else parse_rating(reply.text)
    if rating.value is None and reply.finish == "length":
        return Rating(None, "cut off", reply.text)
    return rating


def expected_rating(logprobs: Sequence[float]) -> Rating:
    """Sum of r * p(r) over the ten ratings, p normalised over them (our choice)."""
    if len(logprobs) != len(CHOICES) or not all(math.isfinite(value) for value in logprobs):
        return Rating(None, "error", "the judge gave no log-probabilities of the ten ratings")
    # less the largest: far below 0, all exponentials would be rounded to 0
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    total = math.fsum(weights)
    mean = math.fsum(weight * r for r, weight in enumerate(weights, LOWEST)) / total
    chances = " ".join(f"{weight / total:.3f}" for weight in weights)
    return Rating(mean, "", f"p(1..10) = {chances}")
