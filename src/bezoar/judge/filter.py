"""A judge in place of people: every row is accepted or rejected with a reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count, Fraction, Natural
from bezoar.chat.tool_calls import whole_text
from bezoar.chat.types import AnyRow, Chat, Message, Messages, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.judge.stages import FilterResult, JudgeFilter, with_meta
from bezoar.llm.repair import repairing
from bezoar.llm.types import Ask, Reply, Request
from bezoar.prompts import read_prompt, seal, without_headings
from bezoar.references import FileRef
from bezoar.verdicts.accept_reject import (
    CHOICES,
    FORM,
    Unparsed,
    Verdict,
    by_rank,
    parse_verdict,
    read_logprobs,
    read_structured,
    read_text,
)
from bezoar.verdicts.forms import Way

_PROMPT_TOKENS = 500
_FIX = 'Write "Accept: " or "Reject: " and then a short reason, nothing else.'
_HEADINGS = (
    "[System message]",
    "[Conversation so far]",
    "[Instruction]",
    "[Reference answer]",
    "[Response]",
)


@dataclass(frozen=True)
class Filter(JudgeFilter):
    """A judge accepts or rejects each row by a rubric.

    OpenBezoar keeps what GPT-4 called "Accept"; its prompt is not known, and the criteria are ours.
    `verdict: logprob` is for judges too weak to write a verdict: a row is accepted by its score,
    log p(Accept) - log p(Reject).

    Source: arXiv 2404.12195
    Example: {kind: filter, rows: lamini, judge: judge}
    """

    rubric: FileRef = "bezoar:accept_reject.txt"
    """Prompt file with {record}."""
    examples: FileRef = ""
    """JSON Lines of judged records, shown as earlier turns; a weak judge is blind without them."""
    verdict: Way = "text"
    """text: the judge writes Accept or Reject and a reason; structured: it is held to that form, so
    that every verdict can be read; logprob: the probabilities of the two decide."""
    threshold: float = 0.0
    """For logprob: a row is accepted if its score in nats is above this."""
    keep_share: Fraction | None = None
    """For logprob, in place of `threshold`: accept this share of the rows, the highest scores."""
    max_tokens: Count = 200
    """Most tokens of a written verdict."""
    retries: Natural = 1
    """For text: how often a judge that wrote no verdict is told so and asked again."""
    kind: Literal["filter"] = "filter"

    def __post_init__(self) -> None:
        if self.verdict != "logprob" and (self.threshold != 0 or self.keep_share is not None):
            raise ValueError(
                "threshold and keep_share have an effect only with verdict: logprob; remove them"
            )
        if self.verdict != "text" and self.retries != 1:
            raise ValueError("retries has an effect only with verdict: text; remove it")
        if self.keep_share is not None and self.threshold != 0:
            raise ValueError("keep_share replaces threshold; remove one of the two")

    @property
    def row_by_row(self) -> bool:
        """A share is of all rows."""
        return self.keep_share is None

    @property
    def without_words(self) -> str:
        """Log-probabilities."""
        return ", or set verdict: logprob" if self.verdict != "logprob" else ""

    def repaired(self, ask: Ask) -> Ask:
        """A judge of words that wrote no verdict is told so."""
        return repairing(ask, _no_verdict, _FIX, self.retries) if self.verdict == "text" else ask

    def judge_rows(self, rows: Sequence[AnyRow], ask: Ask) -> FilterResult:
        """All of `rows`, sorted by verdict, in their order."""
        # 1) The examples come first in every request, so that a local judge computes them once.
        chats, rubric = as_chats(rows), read_prompt(self.rubric, "record")
        examples = self._example_turns(rubric)
        requests = [self._request((*examples, question(rubric, row))) for row in chats]
        # 2) Read them: a reply without a verdict is unparsed, never a guess.
        replies = ask(requests) if requests else []
        if self.verdict != "logprob":
            read = read_structured if self.verdict == "structured" else read_text
            verdicts = [read(reply) for reply in replies]
        else:
            verdicts = [read_logprobs(reply, self.threshold) for reply in replies]
        # 3) The share is of all rows, so it can only be taken when all scores are there.
        if self.keep_share is not None:
            verdicts = best_share(verdicts, self.keep_share)
        marked = [marked_row(row, verdict) for row, verdict in zip(chats, verdicts, strict=True)]
        by_label: dict[str, list[Chat]] = {"accept": [], "reject": [], "": []}
        for row in marked:
            by_label.get(row.meta["verdict"], by_label[""]).append(row)
        return FilterResult(*by_label.values())

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """One request for each row, of which two thirds are assumed to be accepted."""
        share = Estimate(0, 2 / 3, 1) if self.keep_share is None else exactly(self.keep_share)
        most = self.max_tokens if self.verdict != "logprob" else 0
        written = Estimate(min(10, most), min(30, most), most)
        read = Estimate(_PROMPT_TOKENS / 2, _PROMPT_TOKENS, 4 * _PROMPT_TOKENS)
        requests = RequestEstimate(rows[self.rows], read, written)
        return Quote(rows[self.rows] * share, [(self.judge, requests)])

    def _example_turns(self, rubric: str) -> Messages:
        """The judged examples as turns, in which the judge says what `verdict` asks of it."""
        turns: list[Message] = []
        for row, verdict in read_examples(self.examples) if self.examples else []:
            reason = f": {verdict.reason}" if self.verdict != "logprob" else ""
            reply = verdict.label.capitalize() + reason
            turns += [question(rubric, row), Message("assistant", reply)]
        return tuple(turns)

    def _request(self, messages: Messages) -> Request:
        if self.verdict == "logprob":
            return Request(messages, max_tokens=1, choices=CHOICES)
        form = FORM if self.verdict == "structured" else None
        return Request(messages, max_tokens=self.max_tokens, form=form)


def _no_verdict(reply: Reply) -> str:
    """Why a reply holds no verdict; "" for one that does."""
    verdict = read_text(reply)
    return f"it has {verdict.why}" if isinstance(verdict, Unparsed) else ""


def question(template: str, row: Chat) -> Message:
    """A row's record in the prompt that is put to the judge, closed by a line it cannot know."""
    return Message("user", seal(template, record=record(row)))


def record(row: Chat) -> str:
    """What the judge sees of a row, each part under a heading.

    Headings that stand in a text get a backslash, so that no text passes for another part.
    """
    # the tools too: without them nobody can tell a right call from a wrong one
    system = [whole_text(m) for m in row.prompt if m.role == "system" and whole_text(m)]
    turns = [m for m in row.prompt if m.role != "system"]
    # Empty parts have no heading, except the instruction and the response.
    earlier = [f"{m.role}: {whole_text(m)}" for m in turns[:-1]]
    target = row.meta.get("target")
    parts = (
        "\n".join(system) if system else None,
        "\n\n".join(earlier) if earlier else None,
        turns[-1].content if turns else "",
        str(target) if target else None,
        row.answer,
    )
    return "\n\n".join(
        f"{heading}\n{without_headings(text, _HEADINGS)}"
        for heading, text in zip(_HEADINGS, parts, strict=True)
        if text is not None
    )


def read_examples(ref: str) -> list[tuple[Chat, Verdict]]:
    """The judged records of a file; RecipeError for a line that lacks a part."""
    path = locate_file(ref, Path(), f"examples {ref}")
    examples: list[tuple[Chat, Verdict]] = []
    for line, row in read_jsonl(path):
        # Read as a judge's reply would be, so that the examples are what can be parsed.
        verdict = parse_verdict(f"{row.get('verdict')}: {row.get('reason', '')}")
        texts = (row.get("instruction"), row.get("response"))
        if isinstance(verdict, Unparsed) or not all(isinstance(text, str) for text in texts):
            raise RecipeError(
                f"{path}:{line}: a judged example has instruction, response and verdict, Accept or"
                " Reject; mend the line."
            )
        system = (Message("system", str(row["system"])),) if row.get("system") else ()
        turns = (Message("user", row["instruction"]), Message("assistant", row["response"]))
        meta = {"target": row.get("target", "")}
        examples.append((Chat(f"{path.name}:{line}", (*system, *turns), meta), verdict))
    return examples


def best_share(verdicts: Sequence[Verdict | Unparsed], share: float) -> list[Verdict | Unparsed]:
    """Accepts the highest `share` of the scores, rounded up, and all that tie with the last."""
    known = [v.score for v in verdicts if isinstance(v, Verdict) and v.score is not None]
    if not known:
        return list(verdicts)
    lowest = sorted(known, reverse=True)[math.ceil(share * len(known)) - 1]
    return [
        v
        if isinstance(v, Unparsed) or v.score is None
        else by_rank(v.score, share, is_best=v.score >= lowest)
        for v in verdicts
    ]


def marked_row(row: Chat, verdict: Verdict | Unparsed) -> Chat:
    """The row with its verdict in `meta`."""
    if isinstance(verdict, Unparsed):
        reason = f"{verdict.why}: {verdict.text[:300]}" if verdict.text else verdict.why
        return with_meta(row, verdict=verdict.label, reason=reason)
    score = {} if verdict.score is None else {"score": round(verdict.score, 6)}
    return with_meta(row, verdict=verdict.label, reason=verdict.reason, **score)
