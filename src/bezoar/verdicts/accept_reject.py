"""A judge's verdict on one row, or unparsed; never a guess.

Every reading of words (this one, `pairwise.parse_side`, `rating.parse_rating` and the attributes')
takes explicit verdicts among the judge's own words, not those that it quotes or shows as code
(`own_words`). If they differ, the reply is unparsed. Reading takes time in proportion to the reply.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.llm.types import Reply
from bezoar.model.structured_output import StructuredOutput
from bezoar.verdicts.forms import NOT_OF_FORM
from bezoar.verdicts.own_words import MASK, ONE_WORD, own_words

Label = Literal["accept", "reject"]
CHOICES = ("Accept", "Reject")
# possessive throughout: no character is tried by two repetitions, so a line is read once
_DECORATION = r"(?:[\s*_#<\"'“”‘’\[\](){}–—•.:]|[-=]>?)*+"
_END = r"(?!_*+\w)"  # of a word, which may be emphasised: `_word_`
_LEAD = (
    r"(?:(?:my|the|final|overall)\s++)*+"
    rf"(?:verdict|decision|judge?ment|answer|result|status){_END}{_DECORATION}(?:is{_END}{_DECORATION})?+"
)
_AFTER = r"(?=\s*+(?:[:;,.!\-–—*_\"'`”’\])}>|]|$|because\b|since\b|as\b|due\b|for\b))"
_VERDICT = re.compile(
    rf"{_DECORATION}(?P<lead>{_LEAD})?+(?P<label>accept|reject)(?:ed)?+{_END}{_AFTER}",
    re.IGNORECASE,
)
_OTHER = re.compile(rf"(accept|reject)(?:ed)?+{_END}{_AFTER}", re.IGNORECASE)
_EITHER = re.compile(r"\W*+(?:or|and|vs)\W++(?:accept|reject)", re.IGNORECASE)
_BEFORE_REASON = re.compile(rf"^[\W_]*+(?:(?:reason|because){_END}[\W_]*+)?+", re.IGNORECASE)
FORM = StructuredOutput(regex=r"(Accept|Reject): [^\n]+")
"""What `verdict: structured` holds a judge to; the verdict stands before what may be cut off."""
_QUOTES = "\"'“”‘’"
_DENIED = ("no", "not", "false", "0")


@dataclass(frozen=True)
class Verdict:
    """A judge's decision and why."""

    label: Label
    reason: str = ""
    score: float | None = None
    """log p(Accept) - log p(Reject), if probabilities decided."""


@dataclass(frozen=True)
class Unparsed:
    """A reply without a verdict, or a failed one; `why` says which."""

    text: str
    why: str = "no verdict"

    @property
    def label(self) -> Literal["unparsed", "failed"]:
        """Whether there is no reply at all, such as to a prompt that the judge has no room for."""
        return "failed" if self.why.startswith("failed: ") else "unparsed"


def parse_verdict(text: str) -> Verdict | Unparsed:
    """The verdict in a reply.

    A line of the judge's own words decides when it begins with Accept or Reject (after marks of
    emphasis or a word such as "Verdict:") and goes on with punctuation, a reason, or not at all.
    """
    # 1) the lines that decide; masked words cannot, but they can be the reason
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    own, lines = own_words(plain, ONE_WORD).split("\n"), plain.split("\n")
    is_only_line = sum(bool(line.strip()) for line in lines) == 1
    decisions: list[tuple[int, Label, str]] = []
    for number, line in enumerate(own):
        match = _VERDICT.match(line)
        if not match or _only_named(match, is_only_line):
            continue
        if _names_both(match["label"], line[match.end() :]):
            return Unparsed(text, "both verdicts")
        label: Label = "accept" if match["label"].casefold() == "accept" else "reject"
        decisions.append((number, label, _plain(lines[number][match.end() :])))
    labels = {label for _, label, _ in decisions}
    if len(labels) != 1:
        return Unparsed(text, "both verdicts" if labels else "no verdict")
    # 2) the reason: the rest of the last such line that has one, else the text behind or before it
    last = decisions[-1][0]
    around = (*range(last + 1, len(lines)), *range(last - 1, -1, -1))
    reasons = [rest for _, _, rest in reversed(decisions)]
    reasons += [_plain(lines[i]) for i in around if own[i].strip(MASK)]
    return Verdict(labels.pop(), next(filter(None, reasons), ""))


def _only_named(match: re.Match[str], is_only_line: bool) -> bool:
    """Whether a line does not decide: a bare quoted word among other lines, or "Accept: no"."""
    rest, before = match.string[match.end() :], match.string[: match.start("label")]
    bare = not match["lead"] and not rest.strip(_QUOTES).strip()
    quoted = bare and not is_only_line and before[-1:] in tuple(_QUOTES)
    # "Accept: no" fills in a form with the two verdicts as its headings
    return quoted or _plain(rest).rstrip(".!").casefold() in _DENIED


def _names_both(label: str, rest: str) -> bool:
    """Whether a line that begins with one verdict gives both, as in "Accept: no. Reject: yes"."""
    if _EITHER.match(rest):
        return True
    others = (other for other in _OTHER.finditer(rest) if other[1].casefold() != label.casefold())
    return any(_behind_pause(rest, other.start()) for other in others)


def _behind_pause(text: str, index: int) -> bool:
    """Whether no word stands between a mark that ends a clause and `index`."""
    while index and not text[index - 1].isalnum():
        index -= 1
        if text[index] in ".;,/|:":
            return True
    return False


def _plain(text: str) -> str:
    """A reason without the marks around it."""
    return _BEFORE_REASON.sub("", text).strip().strip("*_\"'`{}[]| ")


def read_text(reply: Reply) -> Verdict | Unparsed:
    """The verdict that a judge wrote."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    verdict = parse_verdict(reply.text)
    # "both verdicts" stays the reason: more tokens would not have helped
    if isinstance(verdict, Unparsed) and reply.finish == "length" and verdict.why == "no verdict":
        return Unparsed(reply.text, "cut off before a verdict")
    return verdict


def read_structured(reply: Reply) -> Verdict | Unparsed:
    """The verdict of a reply that was held to `FORM`: its first word."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    word, colon, reason = reply.text.partition(":")
    if word not in CHOICES or not colon:
        return Unparsed(reply.text, NOT_OF_FORM)
    return Verdict("accept" if word == "Accept" else "reject", _plain(reason))


def read_logprobs(reply: Reply, threshold: float) -> Verdict | Unparsed:
    """Accept if log p(Accept) - log p(Reject) is above `threshold`."""
    if reply.finish == "error":
        return Unparsed("", f"failed: {reply.error}")
    score = log_odds(reply.logprobs)
    if score is None:
        return Unparsed(reply.text, "no log-probabilities of the two verdicts")
    return by_score(score, threshold)


def log_odds(logprobs: Sequence[float]) -> float | None:
    """The first of two log-probabilities less the second; None if they are not two numbers."""
    if len(logprobs) != 2 or not all(math.isfinite(value) for value in logprobs):
        return None
    return logprobs[0] - logprobs[1]


def by_score(score: float, threshold: float) -> Verdict:
    """The verdict of a score against a threshold."""
    label: Label = "accept" if score > threshold else "reject"
    return Verdict(label, f"log p(Accept)/p(Reject) {_compared(score, threshold)}", score)


def by_rank(score: float, share: float, *, is_best: bool) -> Verdict:
    """The verdict of a score that is, or is not, among the highest `share` of all."""
    reason = f"among the best {100 * share:g} %: log p(Accept)/p(Reject) {score:.2f}"
    if is_best:
        own = "; the judge itself leans to Reject" if score < 0 else ""
        return Verdict("accept", reason + own, score)
    own = "; the judge itself leans to Accept" if score > 0 else ""
    return Verdict("reject", f"not {reason}{own}", score)


def _compared(score: float, threshold: float) -> str:
    """Both numbers with the digits that tell them apart: -0.37 is above -0.42, 0.3 equals 0.3."""
    if score == threshold:
        return f"{score:.2f} equals the threshold"
    where = "above" if score > threshold else "below"
    digits = next((d for d in range(2, 17) if f"{score:.{d}f}" != f"{threshold:.{d}f}"), 17)
    return f"{score:.{digits}f} is {where} {threshold:.{digits}f}"
