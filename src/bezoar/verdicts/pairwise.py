"""Which of two answers is better, asked in both orders (arXiv 2306.05685, section 3.4)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.tool_calls import whole_text
from bezoar.chat.types import Comparison, Message, Messages
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.llm.types import Ask, Reply, Request
from bezoar.prompts import read_prompt, seal
from bezoar.references import BackendRef, FileRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.forms import NOT_OF_FORM, Way, reason_then
from bezoar.verdicts.own_words import own_words

Side = Literal["A", "B", "tie"]
CHOICES = ("A", "B", "C")
_SIDES: dict[str, Side] = {"A": "A", "B": "B", "C": "tie"}
_MARK = re.compile(r"\[\[\s*+([ABC])\s*+\]\]")
_SWAPPED: dict[Side | Unparsed, Side] = {"A": "B", "B": "A"}  # a tie and a failure stay


@dataclass(frozen=True)
class Preference:
    """The verdicts on one pair; A is the first answer as given in both."""

    id: str
    first: Side | Unparsed
    """In the order given."""
    second: Side | Unparsed
    """With the answers swapped."""

    @property
    def verdict(self) -> Side | Unparsed:
        """The winner if both orders agree, a tie if they do not; unparsed if either is."""
        if isinstance(self.first, Unparsed):
            return self.first
        if isinstance(self.second, Unparsed):
            return self.second
        return self.first if self.first == self.second else "tie"

    @property
    def consistent(self) -> bool:
        """Whether both orders were read and agree."""
        return not isinstance(self.first, Unparsed) and self.first == self.second


@dataclass(frozen=True)
class Pairwise:
    """A language model that compares two answers, in both orders."""

    judge: BackendRef
    """Language model that compares."""
    prompt: FileRef = "bezoar:pairwise.txt"
    """Prompt of the judge, with {prompt}, {a} and {b}."""
    verdict: Way = "text"
    """text: written by the judge; structured: held to its form; logprob: the likeliest of three."""
    max_tokens: int = 512
    """Most tokens of a written verdict."""

    def compare(self, pairs: Sequence[Comparison], ask: Ask) -> list[Preference]:
        """Two requests a pair. A is `chosen`, B is `rejected`."""
        template = read_prompt(self.prompt, "prompt", "a", "b")
        # one call for both orders, so that they share the batches of a local model
        in_both_orders = [*pairs, *(pair.swap() for pair in pairs)]
        requests = [self._request(template, pair) for pair in in_both_orders]
        sides = [read_side(reply, self.verdict) for reply in (ask(requests) if requests else [])]
        swapped = [_SWAPPED.get(side, side) for side in sides[len(pairs) :]]
        games = zip(pairs, sides[: len(pairs)], swapped, strict=True)
        return [Preference(pair.id, first, second) for pair, first, second in games]

    def quote(self, num_pairs: Estimate) -> list[RequestEstimate]:
        """Two requests a pair."""
        written = Estimate(20, 120, self.max_tokens) if self.verdict != "logprob" else exactly(0)
        return [RequestEstimate(num_pairs * 2, Estimate(300, 900, 3000), written)]

    def _request(self, template: str, pair: Comparison) -> Request:
        text = seal(template, prompt=conversation(pair.prompt), a=pair.chosen, b=pair.rejected)
        messages = (Message("user", text),)
        # the prefill opens the mark, so that the next token is the verdict
        if self.verdict == "logprob":
            return Request(messages, max_tokens=1, prefill="[[", choices=CHOICES)
        form = reason_then(r"\[\[[ABC]\]\]", "[[A]]", self.max_tokens)
        held = form if self.verdict == "structured" else None
        return Request(messages, max_tokens=self.max_tokens, form=held)


def conversation(messages: Messages) -> str:
    """The turns as a judge reads them."""
    turns = [(message.role.capitalize(), whole_text(message)) for message in messages]
    return "\n\n".join(f"{who}: {text}" for who, text in turns if text)


def parse_side(text: str) -> Side | Unparsed:
    """The one of [[A]], [[B]] and [[C]] that stands among the judge's own words, once or more."""
    # the same mark twice is one verdict; two marks are none, since nobody knows which counts
    marks = set(_MARK.findall(own_words(text)))
    if len(marks) != 1:
        return Unparsed(text, "several verdicts" if marks else "no verdict")
    return _SIDES[marks.pop()]


def read_side(reply: Reply, verdict: Way) -> Side | Unparsed:
    """The verdict in a reply."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    if verdict == "text":
        return parse_side(reply.text)
    if verdict == "structured":
        # not by its own words: in a form a mark that is quoted is none
        last = _MARK.fullmatch(reply.text.rpartition("\n")[2])
        return _SIDES[last[1]] if last else Unparsed(reply.text, NOT_OF_FORM)
    if len(reply.logprobs) != len(CHOICES):
        return Unparsed(reply.text, "no log-probabilities of the three verdicts")
    best = max(range(len(CHOICES)), key=reply.logprobs.__getitem__)
    return _SIDES[CHOICES[best]]
