"""Filters that need no judge: rows of a bad form, and rows that repeat others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, as_chats
from bezoar.cost import Estimate, Quote
from bezoar.data.near_duplicates import NearDuplicates, check_threshold, words
from bezoar.judge.stages import RuleFilter

_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|^\W*(?:i['’]?m|i am|we are) (?:very |really |so |truly )?(?:sorry|afraid)\b"
    r"|^\W*(?:sorry|unfortunately|apologies)\b[^.!?]{0,60}\b(?:can['’]?t|cannot|can"
    r" not|unable|won['’]?t|not able)\b"
    r"|^\W*i (?:can['’]?t|cannot|can not|won['’]?t|am unable to|am not able to|must decline)\b",
    re.IGNORECASE,
)
_ENDING = re.compile(r"[.!?…:;)\]}\"'`”’»*|>。！？]$")
_SHORT_WORDS, _LOOP_WORDS, _RUN = 12, 20, 4


@dataclass(frozen=True)
class Form(RuleFilter):
    """Recipe keys. Drops answers that are empty, have fewer than `min_words` or more than
    `max_words` words, refuse or speak of themselves as an AI (`refusals`, English), go round in
    circles (`loops`: of more than 20 words, less than half of the runs of four words differ), or
    end within a sentence (`unfinished`: more than 12 words, and the last line, no point of a list
    and no heading, ends without punctuation, or a block of code is left open), and prompts of more
    than `max_prompt_words`. The three are heuristics of ours."""

    min_words: int = 1
    max_words: int | None = None
    max_prompt_words: int | None = None
    refusals: bool = True
    loops: bool = True
    unfinished: bool = True
    kind: Literal["form"] = "form"

    def __post_init__(self) -> None:
        if self.min_words < 1 or (self.max_words is not None and self.max_words < self.min_words):
            raise ValueError("min_words must be at least 1 and max_words no less")

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Chat]:
        """The rows of good form; dropped ones are "empty", "too short", "too long", "long prompt",
        "refusal", "loop" or "unfinished"."""
        chats = as_chats(rows)
        faults = [self._fault(row.answer) or self._long(row) for row in chats]
        dropped = [
            Dropped(row.id, fault, row.answer[:400])
            for row, fault in zip(chats, faults, strict=True)
            if fault
        ]
        return Filtered(
            [row for row, fault in zip(chats, faults, strict=True) if not fault], dropped
        )

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give; no calls."""
        return Quote(rows[self.rows] * Estimate(0, 0.9, 1))

    def _long(self, row: Chat) -> str:
        num_words = sum(len(message.content.split()) for message in row.prompt)
        return (
            "long prompt"
            if self.max_prompt_words is not None and num_words > self.max_prompt_words
            else ""
        )

    def _fault(self, answer: str) -> str:
        num_words = len(answer.split())
        if not num_words:
            return "empty"
        if num_words < self.min_words:
            return "too short"
        if self.max_words is not None and num_words > self.max_words:
            return "too long"
        if self.refusals and is_refusal(answer):
            return "refusal"
        if self.loops and is_loop(answer):
            return "loop"
        return "unfinished" if self.unfinished and is_unfinished(answer) else ""


@dataclass(frozen=True)
class Dedup(RuleFilter):
    """Recipe keys. Drops a row whose prompt (with `on: answer`, whose answer) has at least
    `near_duplicate` similarity to that of an earlier row, 1 meaning the same words; see
    data/near_duplicates.py."""

    near_duplicate: float = 0.8
    on: Literal["prompt", "answer"] = "prompt"
    kind: Literal["dedup"] = "dedup"

    def __post_init__(self) -> None:
        check_threshold(self.near_duplicate)

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Chat]:
        """The first of all rows that repeat one another; the others are dropped as "near
        duplicate"."""
        seen = NearDuplicates(self.near_duplicate)
        kept: list[Chat] = []
        dropped: list[Dropped] = []
        for row in as_chats(rows):
            twin = seen.add(
                row.id,
                row.answer if self.on == "answer" else "\n".join(m.content for m in row.prompt),
            )
            if twin:
                dropped.append(Dropped(row.id, "near duplicate", f"as {twin[0]}, {twin[1]:.2f}"))
            else:
                kept.append(row)
        return Filtered(kept, dropped)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give; no calls."""
        return Quote(rows[self.rows] * Estimate(0, 0.95, 1))


def is_refusal(answer: str) -> bool:
    """Whether an answer refuses, or speaks of itself as an AI."""
    return bool(_REFUSAL.search(answer))


def is_loop(answer: str) -> bool:
    """Whether an answer says the same again and again."""
    found = words(answer)
    runs = [tuple(found[i : i + _RUN]) for i in range(len(found) - _RUN + 1)]
    return len(found) > _LOOP_WORDS and len(set(runs)) < len(runs) / 2


def is_unfinished(answer: str) -> bool:
    """Whether an answer seems to end within a sentence."""
    text = answer.rstrip()
    if text.count("```") % 2:
        return True
    last = text.rsplit("\n", 1)[-1].strip()
    listed = re.match(r"[-*•|#]|\(?\d{1,3}[.):]|```", last)
    return len(text.split()) > _SHORT_WORDS and not listed and not _ENDING.search(last)
