"""A language model as annotator: levels from 0 to 4 of the attributes of an answer, several times
over."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bezoar.chat.types import AnyRow, Chat, Message, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.judge.filter import record
from bezoar.judge.predict_attributes import labelled, level
from bezoar.judge.stages import FilterResult, JudgeFilter
from bezoar.llm.types import Ask, Reply, Request
from bezoar.prompts import fill, read_prompt, seal
from bezoar.references import FileRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.own_words import ONE_WORD, own_words

_LEVELS = ("0", "1", "2", "3", "4")
_NUM_KEPT, _NUM_MORE, _SPREAD = 3, 2, 2
_MARKS = r"[\s*_\"'`]*+"
Rating = dict[str, int]


class Attribute(NamedTuple):
    """One attribute: its name, what is asked of it, what each level means."""

    name: str
    asks: str
    levels: list[str]

    @property
    def text(self) -> str:
        """What the judge reads."""
        return "\n".join(
            [
                f"{self.name}: {self.asks}",
                *(f"  {n} = {meaning}" for n, meaning in enumerate(self.levels)),
            ]
        )


@dataclass(frozen=True)
class Attributes(JudgeFilter):
    """Recipe keys. `judge` rates each row by the `definitions` `repeats` times;
    `meta["attributes"]` gets the mean level, rounded, `meta["ratings"]` every rating that could be
    read.

    As HelpSteer2's people do (arXiv 2406.08673, section 2): where the first attribute's levels lie
    more than 2 apart, two more ratings are asked for; of more than three the three that agree most
    are kept (smallest spread of the first attribute, then of all; the rule for ties is ours); where
    even these lie more than 2 apart the row is rejected. Fewer than `repeats` ratings that can be
    read leave it unparsed. `verdict: logprob`, for judges too weak to write levels, asks for one
    attribute at a time and takes the mean level by the probabilities of the five digits, a number
    with decimals.
    """

    prompt: FileRef = "bezoar:attributes.txt"
    definitions: FileRef = "bezoar:attributes.jsonl"
    verdict: Literal["text", "logprob"] = "text"
    repeats: int = 3
    temperature: float = 0.7
    max_tokens: int = 120
    kind: Literal["attributes"] = "attributes"

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.max_tokens < 1:
            raise ValueError("repeats and max_tokens must be at least 1")
        if self.repeats > 1 and (self.temperature <= 0 or self.verdict == "logprob"):
            raise ValueError(
                "repeats above 1 give the same rating again at temperature 0 or with verdict:"
                " logprob; set repeats: 1"
            )

    def judge_rows(self, rows: Sequence[AnyRow], ask: Ask) -> FilterResult:
        """All of `rows`: accepted with their attributes, rejected for a spread above 2, or
        unparsed."""
        chats = as_chats(rows)
        attributes = read_attributes(self.definitions)
        template = read_prompt(self.prompt, "attributes", "record")
        if self.verdict == "logprob":
            return self._by_digits(chats, attributes, template, ask)
        names = [a.name for a in attributes]
        shown = "\n\n".join(a.text for a in attributes)
        requests = [
            self._request(seal(fill(template, attributes=shown), record=record(row)))
            for row in chats
        ]
        found = self._ratings(requests, range(self.repeats), names, ask)
        wide = [
            i for i, ratings in enumerate(found) if _spread(_parsed(ratings), names[0]) > _SPREAD
        ]
        more = self._ratings(
            [requests[i] for i in wide], range(self.repeats, self.repeats + _NUM_MORE), names, ask
        )
        for i, ratings in zip(wide, more, strict=True):
            found[i] += ratings
        judged = FilterResult([], [], [])
        for row, ratings in zip(chats, found, strict=True):
            self._sort(row, ratings, names, judged)
        return judged

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give (a tenth is taken to be dropped, as in the paper), and calls: the
        repeats, or one an attribute."""
        num = len(read_attributes(self.definitions)) if self.verdict == "logprob" else self.repeats
        written = exactly(0) if self.verdict == "logprob" else Estimate(15, 30, self.max_tokens)
        read = rows[self.rows]
        calls = RequestEstimate(read * num, Estimate(200, 700, 3000), written)
        return Quote(read * Estimate(0, 0.9, 1), [(self.judge, calls)])

    def _request(self, text: str) -> Request:
        return Request(
            (Message("user", text),), temperature=self.temperature, max_tokens=self.max_tokens
        )

    def _ratings(
        self, requests: list[Request], seeds: range, names: list[str], ask: Ask
    ) -> list[list[Rating | Unparsed]]:
        """By request, a rating a seed."""
        seeded = [replace(request, seed=seed) for request in requests for seed in seeds]
        replies = iter(ask(seeded) if seeded else [])
        return [[read_rating(next(replies), names) for _ in seeds] for _ in requests]

    def _sort(
        self, row: Chat, ratings: list[Rating | Unparsed], names: list[str], judged: FilterResult
    ) -> None:
        parsed = _parsed(ratings)
        if len(parsed) < self.repeats:
            failed = next(r for r in ratings if isinstance(r, Unparsed))
            judged.unparsed.append(_marked(row, "unparsed", f"{failed.why}: {failed.text[:300]}"))
            return
        kept = most_agreeing(parsed, names)
        if _spread(kept, names[0]) > _SPREAD:
            levels = ", ".join(str(rating[names[0]]) for rating in parsed)
            judged.rejected.append(_marked(row, "spread", f"{names[0]} {levels}", ratings=parsed))
            return
        means = {name: level(sum(rating[name] for rating in kept) / len(kept)) for name in names}
        judged.accepted.append(labelled(row, means, ratings=parsed))

    def _by_digits(
        self, rows: list[Chat], attributes: list[Attribute], template: str, ask: Ask
    ) -> FilterResult:
        requests = [
            Request(
                (Message("user", seal(fill(template, attributes=a.text), record=record(row))),),
                max_tokens=1,
                prefill=f"{a.name}: ",
                choices=_LEVELS,
            )
            for row in rows
            for a in attributes
        ]
        replies = iter(ask(requests) if requests else [])
        judged = FilterResult([], [], [])
        for row in rows:
            means = {a.name: expected_level(next(replies)) for a in attributes}
            failed = next((m for m in means.values() if isinstance(m, Unparsed)), None)
            if failed is None:
                judged.accepted.append(labelled(row, means))
            else:
                judged.unparsed.append(_marked(row, "unparsed", failed.why))
        return judged


def read_attributes(ref: str) -> list[Attribute]:
    """The attributes of a definitions file. RecipeError for a line without name, asks and five
    levels."""
    path = locate_file(ref, Path(), f"definitions {ref}")
    found = []
    for line, row in read_jsonl(path):
        levels = row.get("levels")
        if (
            not isinstance(row.get("name"), str)
            or not isinstance(row.get("asks"), str)
            or not isinstance(levels, list)
            or len(levels) != len(_LEVELS)
        ):
            raise RecipeError(
                f"{path}:{line}: a definition has name, asks and a list of {len(_LEVELS)} levels;"
                " mend the line."
            )
        found.append(Attribute(row["name"], row["asks"], [str(text) for text in levels]))
    if not found:
        raise RecipeError(f"{path}: the file defines no attribute; write one a line.")
    return found


def read_rating(reply: Reply, names: Sequence[str]) -> Rating | Unparsed:
    """The levels in a reply: each name, marks and a colon or equals sign, a whole number from 0 to
    4; none missing, none twice with different levels. Quotes and code do not count
    (`own_words`)."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    rating: Rating = {}
    keys = "|".join(map(re.escape, names))
    own = own_words(reply.text, re.compile(rf"{ONE_WORD.pattern}|\W(?:{keys})\W", re.IGNORECASE))
    for name in names:
        levels = set(
            re.findall(
                rf"\b_*{re.escape(name)}{_MARKS}[:=]{_MARKS}(-?\d+(?:\.\d+)?)", own, re.IGNORECASE
            )
        )
        if len(levels) != 1:
            return Unparsed(
                reply.text, f"several levels of {name}" if levels else f"no level of {name}"
            )
        (text,) = levels
        if text not in _LEVELS:
            return Unparsed(reply.text, f"the level of {name} is {text}")
        rating[name] = int(text)
    return rating


def expected_level(reply: Reply) -> float | Unparsed:
    """The mean level by the probabilities of the digits alone, to three decimals."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    if len(reply.logprobs) != len(_LEVELS) or not all(map(math.isfinite, reply.logprobs)):
        return Unparsed(reply.text, "no log-probabilities of the five levels")
    weights = [math.exp(value - max(reply.logprobs)) for value in reply.logprobs]
    return round(sum(n * weight for n, weight in enumerate(weights)) / sum(weights), 3)


def most_agreeing(ratings: list[Rating], names: Sequence[str]) -> list[Rating]:
    """The three ratings that agree most; all of them where there are no more."""
    trios = [list(trio) for trio in itertools.combinations(ratings, min(_NUM_KEPT, len(ratings)))]
    return min(
        trios,
        key=lambda trio: (_spread(trio, names[0]), sum(_spread(trio, name) for name in names)),
    )


def _parsed(ratings: list[Rating | Unparsed]) -> list[Rating]:
    return [rating for rating in ratings if not isinstance(rating, Unparsed)]


def _spread(ratings: list[Rating], name: str) -> int:
    levels = [rating[name] for rating in ratings]
    return max(levels, default=0) - min(levels, default=0)


def _marked(row: Chat, verdict: str, reason: str, **more: Any) -> Chat:
    return replace(row, meta={**row.meta, "verdict": verdict, "reason": reason, **more})
