"""The judge as human proxy: every row is accepted or rejected with a reason, and only accepted rows
go on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Message, Messages, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.judge.stages import FilterResult, JudgeFilter
from bezoar.llm.types import Ask, Request
from bezoar.prompts import read_prompt, seal, without_headings
from bezoar.references import FileRef
from bezoar.verdicts.accept_reject import (
    CHOICES,
    Unparsed,
    Verdict,
    by_score,
    parse_verdict,
    read_logprobs,
    read_text,
)

_PROMPT_TOKENS = 500
_HEADINGS = tuple(
    f"[{name}]"
    for name in (
        "System message",
        "Conversation so far",
        "Instruction",
        "Reference answer",
        "Response",
    )
)


@dataclass(frozen=True)
class Filter(JudgeFilter):
    """Recipe keys. The judge reads `rubric` with each row and writes Accept or Reject and the
    reason (`verdict: text`).

    OpenBezoar (arXiv 2404.12195) keeps what GPT-4 called "Accept"; its prompt is not known, the
    criteria are ours. `verdict: logprob` is for judges too weak to write one: a row is accepted
    when log p(Accept) - log p(Reject) is above `threshold`, or, with `keep_share`, when its
    difference is among that share of the highest of all rows. `examples` names a file of judged
    records (instruction, response, verdict, reason; system and target if wanted) that are shown as
    earlier turns: a weak judge is blind without them.
    """

    rubric: FileRef = "bezoar:accept_reject.txt"
    examples: FileRef = ""
    verdict: Literal["text", "logprob"] = "text"
    threshold: float = 0.0
    keep_share: float | None = None
    max_tokens: int = 200
    kind: Literal["filter"] = "filter"

    def __post_init__(self) -> None:
        if self.verdict == "text" and (self.threshold != 0 or self.keep_share is not None):
            raise ValueError(
                "threshold and keep_share have an effect with verdict: logprob alone; remove them"
            )
        if self.keep_share is not None and (self.threshold != 0 or not 0 < self.keep_share <= 1):
            raise ValueError(
                "keep_share takes the place of threshold and must be above 0 and at most 1"
            )
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")

    def judge_rows(self, rows: Sequence[AnyRow], ask: Ask) -> FilterResult:
        """All of `rows`, sorted by verdict, in their order."""
        chats = as_chats(rows)
        rubric = read_prompt(self.rubric, "record")
        shown = self._shown(rubric)
        requests = [
            self._request((*shown, Message("user", seal(rubric, record=record(row)))))
            for row in chats
        ]
        replies = ask(requests) if requests else []
        if self.verdict == "text":
            verdicts = [read_text(reply) for reply in replies]
        else:
            verdicts = [read_logprobs(reply, self.threshold) for reply in replies]
            if self.keep_share is not None:
                verdicts = best_share(verdicts, self.keep_share)
        marked = [marked_row(row, verdict) for row, verdict in zip(chats, verdicts, strict=True)]
        parts = {
            label: [row for row in marked if row.meta["verdict"] == label]
            for label in ("accept", "reject", "unparsed")
        }
        return FilterResult(parts["accept"], parts["reject"], parts["unparsed"])

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give, and calls: one a row. Two thirds are taken to be accepted."""
        share = Estimate(0, 2 / 3, 1) if self.keep_share is None else exactly(self.keep_share)
        written = Estimate(10, 30, self.max_tokens) if self.verdict == "text" else exactly(0)
        read = Estimate(_PROMPT_TOKENS / 2, _PROMPT_TOKENS, 4 * _PROMPT_TOKENS)
        calls = RequestEstimate(rows[self.rows], read, written)
        return Quote(rows[self.rows] * share, [(self.judge, calls)])

    def _shown(self, rubric: str) -> Messages:
        """The judged examples as turns; what the judge is made to say is what `verdict` asks of
        it."""
        turns: list[Message] = []
        for row, verdict in read_examples(self.examples) if self.examples else []:
            said = (
                f"{verdict.label.capitalize()}: {verdict.reason}"
                if self.verdict == "text"
                else verdict.label.capitalize()
            )
            turns += [Message("user", seal(rubric, record=record(row))), Message("assistant", said)]
        return tuple(turns)

    def _request(self, messages: Messages) -> Request:
        if self.verdict == "logprob":
            return Request(messages, max_tokens=1, choices=CHOICES)
        return Request(messages, max_tokens=self.max_tokens)


def record(row: Chat) -> str:
    """What the judge sees: the system message, the turns before, the instruction, the reference
    answer, the response.

    The heading of a part that stands in a text gets a backslash, so that no text passes for another
    part.
    """
    system = [m.content for m in row.prompt if m.role == "system" and m.content]
    turns = [m for m in row.prompt if m.role != "system"]
    parts = [("System message", "\n".join(system))] if system else []
    if len(turns) > 1:
        parts.append(
            ("Conversation so far", "\n\n".join(f"{m.role}: {m.content}" for m in turns[:-1]))
        )
    parts.append(("Instruction", turns[-1].content if turns else ""))
    if row.meta.get("target"):
        parts.append(("Reference answer", str(row.meta["target"])))
    parts.append(("Response", row.answer))
    return "\n\n".join(f"[{name}]\n{without_headings(text, _HEADINGS)}" for name, text in parts)


def read_examples(ref: str) -> list[tuple[Chat, Verdict]]:
    """The judged records of a file. RecipeError for a line without instruction, response and a
    verdict."""
    path = locate_file(ref, Path(), f"examples {ref}")
    found: list[tuple[Chat, Verdict]] = []
    for line, row in read_jsonl(path):
        verdict = parse_verdict(f"{row.get('verdict')}: {row.get('reason', '')}")
        if isinstance(verdict, Unparsed) or not all(
            isinstance(row.get(key), str) for key in ("instruction", "response")
        ):
            raise RecipeError(
                f"{path}:{line}: a judged example has instruction, response and verdict, Accept or"
                " Reject; mend the line."
            )
        system = (Message("system", str(row["system"])),) if row.get("system") else ()
        messages = (
            *system,
            Message("user", row["instruction"]),
            Message("assistant", row["response"]),
        )
        found.append(
            (Chat(f"{path.name}:{line}", messages, {"target": row.get("target", "")}), verdict)
        )
    return found


def best_share(verdicts: Sequence[Verdict | Unparsed], share: float) -> list[Verdict | Unparsed]:
    """The verdicts anew: the highest `share` of the scores (rounded up) are accepted, with them all
    that tie with the last."""
    scores = sorted(
        (v.score for v in verdicts if isinstance(v, Verdict) and v.score is not None), reverse=True
    )
    if not scores:
        return list(verdicts)
    lowest = scores[math.ceil(share * len(scores)) - 1]
    threshold = math.nextafter(lowest, -math.inf)
    return [
        v if isinstance(v, Unparsed) or v.score is None else by_score(v.score, threshold)
        for v in verdicts
    ]


def marked_row(row: Chat, verdict: Verdict | Unparsed) -> Chat:
    """The row with its verdict in `meta`."""
    if isinstance(verdict, Unparsed):
        shown = f"{verdict.why}: {verdict.text[:300]}" if verdict.text else verdict.why
        return replace(row, meta={**row.meta, "verdict": "unparsed", "reason": shown})
    score = {} if verdict.score is None else {"score": round(verdict.score, 6)}
    return replace(
        row, meta={**row.meta, "verdict": verdict.label, "reason": verdict.reason, **score}
    )
