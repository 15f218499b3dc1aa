"""The elimination rules of Evol-Instruct (arXiv 2304.12244, section 3.2): when an evolved
instruction has failed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import Chat, Dropped, Filtered, Message
from bezoar.data.near_duplicates import words
from bezoar.llm.types import Ask, Reply, Request
from bezoar.prompts import fill, seal
from bezoar.verdicts.own_words import own_words

EQUALITY = ("Equal", "Not Equal")
MAX_SORRY_WORDS = 80
COPIED = ("given prompt", "rewritten prompt")
STOP_WORDS = frozenset(
    words(
        """a about above after again against all am an and any are aren't as at be because been
        before being below between both but by can can't cannot could couldn't did
        didn't do does doesn't doing don't down during each few for from further had
        hadn't has hasn't have haven't having he her here hers herself him himself his
        how i i'd i'll i'm i've if in into is isn't it it's its itself just me more most
        my myself no nor not now of off on once only or other our ours ourselves out
        over own same she should shouldn't so some such than that that's the their
        theirs them themselves then there these they they're this those through to too
        under until up very was wasn't we we're were weren't what when where which while
        who whom why will with won't would wouldn't you you're your yours yourself
        yourselves"""
    )
)
_EQUALITY = re.compile(r"\b(not\s++|un|in)?equal\b", re.IGNORECASE)
# "Not Equal" in quotation marks is the answer, not a quotation
_TWO_WORDS = re.compile(r"\W*+\w++(?:\W++\w++)?+\W*+")
Equality = Literal["equal", "not equal", "unparsed"]


def copies_prompt(text: str) -> bool:
    """Rule 4: the evolved text holds words of the evolving prompt, such as "#Rewritten Prompt#"."""
    return any(phrase in text.casefold() for phrase in COPIED)


def is_apology(answer: str) -> bool:
    """Rule 2: the answer contains "sorry" and has fewer than 80 words."""
    return "sorry" in answer.casefold() and len(answer.split()) < MAX_SORRY_WORDS


def says_nothing(answer: str) -> bool:
    """Rule 3: the answer holds punctuation and stop words alone."""
    return all(word in STOP_WORDS for word in words(answer))


def read_equality(text: str) -> Equality:
    """Rule 1, the judge's own word (`judge.own_words`): "Equal" or "Not Equal"; "unparsed" where it
    wrote both or neither."""
    found = {
        "not equal" if match[1] else "equal"
        for match in _EQUALITY.finditer(own_words(text, _TWO_WORDS))
    }
    if len(found) != 1:
        return "unparsed"
    return "equal" if found == {"equal"} else "not equal"


def equality_by_logprob(reply: Reply, itself: Reply) -> Equality:
    """Rule 1 for weak judges: log p(Equal) - log p(Not Equal) is no lower than where a text is
    compared with itself."""
    if len(reply.logprobs) != 2 or len(itself.logprobs) != 2:
        return "unparsed"
    return (
        "equal"
        if reply.logprobs[0] - reply.logprobs[1] >= itself.logprobs[0] - itself.logprobs[1]
        else "not equal"
    )


def equality_by_information(reply: Reply, min_nats: float) -> Equality:
    """Rule 1 for weak judges: to one who repeats the old text, the new one tells less than
    `min_nats`."""
    if len(reply.logprobs) != 1:
        return "unparsed"
    return "equal" if -reply.logprobs[0] < min_nats else "not equal"


@dataclass(frozen=True)
class Comparer:
    """Rule 1: whether an evolved instruction is equal to the one before it. `prompt` has {first}
    and {second}, or {first} alone for `information`. `judge` asks and gives a verdict and what it
    rests on for each pair (before, after)."""

    how: Literal["text", "logprob", "information"]
    prompt: str
    min_nats: float

    def judge(self, pairs: Sequence[tuple[str, str]], ask: Ask) -> list[tuple[Equality, str]]:
        """A text without change is equal unasked."""
        asked = [pair for pair in pairs if words(pair[0]) != words(pair[1])]
        found = dict(zip(asked, self._ask(asked, ask) if asked else [], strict=True))
        return [found.get(pair, ("equal", "no change")) for pair in pairs]

    def _ask(self, pairs: Sequence[tuple[str, str]], ask: Ask) -> list[tuple[Equality, str]]:
        filled = [self._filled(before, after) for before, after in pairs]
        messages = [(Message("user", text),) for text in filled]
        if self.how == "text":
            replies = ask([Request(m, max_tokens=16) for m in messages])
            return [(read_equality(r.text), r.error or r.text) for r in replies]
        if self.how == "information":
            replies = ask(
                [
                    Request(m, max_tokens=1, choices=(after,))
                    for m, (_, after) in zip(messages, pairs, strict=True)
                ]
            )
            return [
                (
                    equality_by_information(r, self.min_nats),
                    r.error or f"{-sum(r.logprobs):.0f} nats",
                )
                for r in replies
            ]
        itself = [(Message("user", self._filled(before, before)),) for before, _ in pairs]
        replies = ask([Request(m, max_tokens=1, choices=EQUALITY) for m in (*messages, *itself)])
        both = zip(replies[: len(pairs)], replies[len(pairs) :], strict=True)
        return [
            (equality_by_logprob(r, s), r.error or s.error or f"{r.logprobs} against {s.logprobs}")
            for r, s in both
        ]

    def _filled(self, first: str, second: str) -> str:
        """What a judge reads is sealed; what is only to be repeated is not."""
        return (
            fill(self.prompt, first=first)
            if self.how == "information"
            else seal(self.prompt, first=first, second=second)
        )


def by_answer(rows: Sequence[Chat]) -> Filtered[Chat]:
    """Rules 2 and 3: the rows whose answers pass."""
    kept: list[Chat] = []
    dropped: list[Dropped] = []
    for row in rows:
        reason = (
            "sorry" if is_apology(row.answer) else "stop words" if says_nothing(row.answer) else ""
        )
        if reason:
            dropped.append(
                Dropped(row.id, reason, f"{row.prompt[-1].content[:300]} -> {row.answer[:300]}")
            )
        else:
            kept.append(row)
    return Filtered(kept, dropped)
