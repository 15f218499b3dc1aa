"""A language model as annotator: repeated ratings of an answer's attributes, from 0 to 4."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bezoar.bounds import Count, NotNegative
from bezoar.chat.row_types import RowType
from bezoar.chat.types import AnyRow, Chat, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.judge.attribute_stages import attribute_keys, level
from bezoar.judge.filter import marked_row, question
from bezoar.judge.stages import FilterResult, JudgeFilter, with_meta
from bezoar.llm.types import Ask, Reply, Request
from bezoar.model.structured_output import StructuredOutput
from bezoar.prompts import fill, read_prompt
from bezoar.references import FileRef
from bezoar.stage import Outputs
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.forms import NOT_OF_FORM, Way
from bezoar.verdicts.own_words import ONE_WORD, own_words

_LEVELS = ("0", "1", "2", "3", "4")
_NUM_KEPT, _NUM_MORE, _MAX_SPREAD = 3, 2, 2
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
        lines = [f"  {number} = {meaning}" for number, meaning in enumerate(self.levels)]
        return "\n".join([f"{self.name}: {self.asks}", *lines])


@dataclass(frozen=True)
class Attributes(JudgeFilter):
    """A judge rates each row's attributes several times; agreeing ratings give its levels.

    `meta` gets `attributes`, the mean levels, rounded, and `ratings`, all ratings that could be
    read. As with HelpSteer2's annotators: if the first attribute's levels lie more than 2 apart,
    two more ratings are requested; of more than three the three that agree most are kept (smallest
    spread of the first attribute, then of all; the rule for ties is ours); if even these lie more
    than 2 apart, the row is rejected. With fewer than `repeats` readable ratings it is unparsed.

    Source: arXiv 2406.08673, section 2
    Example: {kind: attributes, rows: answers, judge: judge}
    """

    prompt: FileRef = "bezoar:attributes.txt"
    """Prompt file with {attributes} and {record}."""
    definitions: FileRef = "bezoar:attributes.jsonl"
    """JSON Lines of name, asks and five levels: the attributes, of which the first decides."""
    verdict: Way = "text"
    """text: written levels; structured: held to their form; logprob, for weak judges: the mean
    level by the digits' probabilities, with decimals."""
    repeats: Count = 3
    """Ratings of each row; 1 with temperature 0 or logprob."""
    temperature: NotNegative = 0.7
    """Temperature of the ratings."""
    max_tokens: Count = 120
    """Most tokens of a written rating."""
    kind: Literal["attributes"] = "attributes"

    def __post_init__(self) -> None:
        if self.repeats > 1 and (self.temperature == 0 or self.verdict == "logprob"):
            raise ValueError("temperature 0 and verdict: logprob repeat ratings; set repeats: 1")

    def judge_rows(self, rows: Sequence[AnyRow], ask: Ask) -> FilterResult:
        """All of `rows`: accepted with attributes, rejected for their spread, or unparsed."""
        chats, attributes = as_chats(rows), read_attributes(self.definitions)
        template = read_prompt(self.prompt, "attributes", "record")
        if self.verdict == "logprob":
            return self._by_digits(chats, attributes, template, ask)
        names = [attribute.name for attribute in attributes]
        filled = fill(template, attributes="\n\n".join(a.text for a in attributes))
        how: dict[str, Any] = {"max_tokens": self.max_tokens}
        if self.verdict == "structured":
            how["form"] = levels_form(names)
            # no character takes more than a token, so that nothing is cut off
            longest = sum(len(f"{name}: 0\n".encode()) for name in names)
            how["max_tokens"] = max(self.max_tokens, longest)
        requests = [Request((question(filled, row),), self.temperature, **how) for row in chats]
        # 1) Rate every row `repeats` times, all rows at once.
        ratings = self._ratings(requests, range(self.repeats), names, ask)
        # 2) Rate again only those that disagree; new seeds make these new requests.
        spreads = [_spread(_readable(own), names[0]) for own in ratings]
        wide = [i for i, spread in enumerate(spreads) if spread > _MAX_SPREAD]
        seeds = range(self.repeats, self.repeats + _NUM_MORE)
        more = self._ratings([requests[i] for i in wide], seeds, names, ask)
        for i, added in zip(wide, more, strict=True):
            ratings[i] += added
        # 3) Keep the ratings that agree most and sort the rows by them.
        judged = FilterResult([], [], [])
        for row, own in zip(chats, ratings, strict=True):
            self._sort(row, own, names, judged)
        return judged

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """The chats with the attributes of `definitions`."""
        names = [attribute.name for attribute in read_attributes(self.definitions)]
        return super().row_type(rows, outputs).adding(*attribute_keys(names))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Requests for the repeats, or one for each attribute; a tenth of the rows is dropped."""
        by_digits = self.verdict == "logprob"
        num = len(read_attributes(self.definitions)) if by_digits else self.repeats
        written = exactly(0) if by_digits else Estimate(15, 30, self.max_tokens)
        read = rows[self.rows]
        requests = RequestEstimate(read * num, Estimate(200, 700, 3000), written)
        return Quote(read * Estimate(0, 0.9, 1), [(self.judge, requests)])

    def _ratings(
        self, requests: list[Request], seeds: range, names: list[str], ask: Ask
    ) -> list[list[Rating | Unparsed]]:
        """For each request a rating with each seed."""
        seeded = [replace(request, seed=seed) for request in requests for seed in seeds]
        # All repeats of all rows in one call: the pool orders them for the backend.
        replies = iter(ask(seeded) if seeded else [])
        read = read_held if self.verdict == "structured" else read_rating
        return [[read(next(replies), names) for _ in seeds] for _ in requests]

    def _sort(
        self, row: Chat, ratings: list[Rating | Unparsed], names: list[str], judged: FilterResult
    ) -> None:
        readable, first = _readable(ratings), names[0]
        if len(readable) < self.repeats:
            failed = next(rating for rating in ratings if isinstance(rating, Unparsed))
            judged.unparsed.append(marked_row(row, failed))
            return
        # The other ratings stay in `meta`: from them the report computes the agreement.
        kept = most_agreeing(readable, names)
        if _spread(kept, first) > _MAX_SPREAD:
            reason = f"{first} {', '.join(str(rating[first]) for rating in readable)}"
            meta = {"verdict": "spread", "reason": reason, "ratings": readable}
            judged.rejected.append(with_meta(row, **meta))
            return
        means = {name: level(sum(rating[name] for rating in kept) / len(kept)) for name in names}
        judged.accepted.append(with_meta(row, attributes=means, ratings=readable))

    def _by_digits(
        self, rows: list[Chat], attributes: list[Attribute], template: str, ask: Ask
    ) -> FilterResult:
        """One request for each row and attribute: the probabilities of the five levels."""
        requests = [
            Request(
                (question(fill(template, attributes=attribute.text), row),),
                max_tokens=1,
                prefill=f"{attribute.name}: ",
                choices=_LEVELS,
            )
            for row in rows
            for attribute in attributes
        ]
        # The replies come in the order of the requests: row by row, attribute by attribute.
        replies = iter(ask(requests) if requests else [])
        judged = FilterResult([], [], [])
        for row in rows:
            means = {attribute.name: expected_level(next(replies)) for attribute in attributes}
            failed = [mean for mean in means.values() if isinstance(mean, Unparsed)]
            if failed:
                judged.unparsed.append(marked_row(row, failed[0]))
            else:
                judged.accepted.append(with_meta(row, attributes=means))
        return judged


def read_attributes(ref: str) -> list[Attribute]:
    """The attributes of a definitions file; RecipeError for a line that lacks a part."""
    path = locate_file(ref, Path(), f"definitions {ref}")
    attributes = []
    for line, row in read_jsonl(path):
        name, asks, levels = row.get("name"), row.get("asks"), row.get("levels")
        has_texts = isinstance(name, str) and isinstance(asks, str)
        if not has_texts or not isinstance(levels, list) or len(levels) != len(_LEVELS):
            raise RecipeError(
                f"{path}:{line}: a definition has name, asks and a list of {len(_LEVELS)} levels;"
                " mend the line."
            )
        attributes.append(Attribute(str(name), str(asks), [str(text) for text in levels]))
    if not attributes:
        raise RecipeError(f"{path}: the file defines no attribute; write one a line.")
    return attributes


def read_rating(reply: Reply, names: Sequence[str]) -> Rating | Unparsed:
    """The levels in a reply: each name, marks and a colon or equals sign, a number from 0 to 4.

    None may be missing, and none stand there twice with different levels. Quotes and code do not
    count (`own_words`).
    """
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    # A name in quotes or code formatting ("helpfulness": 3) is the judge's own and stays.
    rating: Rating = {}
    keys = "|".join(map(re.escape, names))
    own = own_words(reply.text, re.compile(rf"{ONE_WORD.pattern}|\W(?:{keys})\W", re.IGNORECASE))
    for name in names:
        # Possessive repetitions of marks (*+): a line of them is read only once.
        pattern = rf"\b_*{re.escape(name)}{_MARKS}[:=]{_MARKS}(-?\d+(?:\.\d+)?)"
        levels = set(re.findall(pattern, own, re.IGNORECASE))
        if len(levels) != 1:
            why = f"several levels of {name}" if levels else f"no level of {name}"
            return Unparsed(reply.text, why)
        (text,) = levels
        if text not in _LEVELS:
            return Unparsed(reply.text, f"the level of {name} is {text}")
        rating[name] = int(text)
    return rating


def levels_form(names: Sequence[str]) -> StructuredOutput:
    """A line for each name, with a level."""
    return StructuredOutput(regex="\n".join(rf"{re.escape(name)}: [0-4]" for name in names))


def read_held(reply: Reply, names: Sequence[str]) -> Rating | Unparsed:
    """The levels in a reply that was held to `levels_form`."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    levels = [line[-1:] for line in reply.text.split("\n")]
    if len(levels) != len(names) or not set(levels) <= set(_LEVELS):
        return Unparsed(reply.text, NOT_OF_FORM)
    return dict(zip(names, map(int, levels), strict=True))


def expected_level(reply: Reply) -> float | Unparsed:
    """The mean level by the probabilities of the five digits only, to three decimals."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    if len(reply.logprobs) != len(_LEVELS) or not all(map(math.isfinite, reply.logprobs)):
        return Unparsed(reply.text, "no log-probabilities of the five levels")
    # Less the largest, so that no exponential underflows to a sum of zero.
    weights = [math.exp(value - max(reply.logprobs)) for value in reply.logprobs]
    return round(sum(n * weight for n, weight in enumerate(weights)) / sum(weights), 3)


def most_agreeing(ratings: list[Rating], names: Sequence[str]) -> list[Rating]:
    """The three ratings that agree most; all of them if there are no more."""

    def disagreement(trio: tuple[Rating, ...]) -> tuple[int, int]:
        return _spread(trio, names[0]), sum(_spread(trio, name) for name in names)

    trios = itertools.combinations(ratings, min(_NUM_KEPT, len(ratings)))
    closest = min(trios, key=disagreement)
    return list(closest)


def _readable(ratings: list[Rating | Unparsed]) -> list[Rating]:
    return [rating for rating in ratings if not isinstance(rating, Unparsed)]


def _spread(ratings: Sequence[Rating], name: str) -> int:
    levels = [rating[name] for rating in ratings]
    return max(levels, default=0) - min(levels, default=0)
