"""Filters that need no judge: rows of bad form, and rows that repeat others."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count
from bezoar.chat.types import Chat, Dropped, as_chat
from bezoar.cost import Estimate
from bezoar.data.near_duplicates import NearDuplicates, Similarity, words
from bezoar.data.turns import turn_problem
from bezoar.judge.stages import RowFilter
from bezoar.stage import Rows

# Refusals are told by how an answer begins; talk of being an AI counts anywhere.
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|^\W*(?:i['’]?m|i am|we are) (?:very |really |so |truly )?(?:sorry|afraid)\b"
    r"|^\W*(?:sorry|unfortunately|apologies)\b[^.!?]{0,60}\b(?:can['’]?t|cannot|can"
    r" not|unable|won['’]?t|not able)\b"
    r"|^\W*i (?:can['’]?t|cannot|can not|won['’]?t|am unable to|am not able to|must decline)\b",
    re.IGNORECASE,
)
_ENDING = re.compile(r"[.!?…:;)\]}\"'`”’»*|>。！？]$")
_LIST_OR_HEADING = re.compile(r"[-*•|#]|\(?\d{1,3}[.):]|```")
_SHORT_WORDS, _LOOP_WORDS, _RUN = 12, 20, 4


@dataclass(frozen=True)
class Form(RowFilter):
    """Drops answers of a wrong length, refusals, loops and unfinished answers, and long prompts.

    Empty answers, and conversations in which a turn is empty, missing or out of order, are always
    dropped. `refusals`, `loops` and `unfinished` are heuristics of ours.

    Example: {kind: form, rows: lamini, max_words: 400}
    """

    min_words: Count = 1
    """Fewest words of an answer."""
    max_words: Count | None = None
    """Most words of an answer; null for no limit."""
    max_prompt_words: Count | None = None
    """Most words of a prompt, over all its turns; null for no limit."""
    refusals: bool = True
    """Drop English answers that refuse or speak of themselves as an AI."""
    loops: bool = True
    """Drop answers of more than 20 words in which over half of the four-word runs are repeats."""
    unfinished: bool = True
    """Drop answers that end within a sentence (more than 12 words, no list) or a code block."""
    kind: Literal["form"] = "form"
    kept_share = Estimate(0, 0.9, 1)

    def __post_init__(self) -> None:
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError("max_words must be no less than min_words; change one of the two")

    def each(self, rows: Rows, work_dir: Path | None = None) -> Iterator[Chat | Dropped]:
        """The rows of good form; the others are dropped by their fault, such as "too short"."""
        for row in map(as_chat, rows):
            fault = self._fault(row)
            yield Dropped(row.id, fault, row.answer[:400]) if fault else row

    def _fault(self, row: Chat) -> str:
        num_words = len(row.answer.split())
        num_prompt_words = sum(len(message.content.split()) for message in row.prompt)
        # Cheap checks first: the later ones read the whole answer.
        if not num_words:
            return "empty"
        if problem := turn_problem(row.messages):
            return problem
        if num_words < self.min_words:
            return "too short"
        if self.max_words is not None and num_words > self.max_words:
            return "too long"
        if self.refusals and is_refusal(row.answer):
            return "refusal"
        if self.loops and is_loop(row.answer):
            return "loop"
        if self.unfinished and is_unfinished(row.answer):
            return "unfinished"
        if self.max_prompt_words is not None and num_prompt_words > self.max_prompt_words:
            return "long prompt"
        return ""


@dataclass(frozen=True)
class Dedup(RowFilter):
    """Drops rows whose prompt or answer nearly repeats that of an earlier row.

    Example: {kind: dedup, rows: lamini, near_duplicate: 0.7}
    """

    near_duplicate: Similarity = 0.8
    """Similarity from which a row is dropped; 1 means the same words and word pairs."""
    on: Literal["prompt", "answer"] = "prompt"
    """What is compared."""
    kind: Literal["dedup"] = "dedup"
    kept_share = Estimate(0, 0.95, 1)

    def each(self, rows: Rows, work_dir: Path | None = None) -> Iterator[Chat | Dropped]:
        """The first of all rows that repeat one another; the others are a "near duplicate"."""
        # A row that was dropped is not remembered: chains of near duplicates do not drift.
        seen = NearDuplicates(self.near_duplicate, str(work_dir) if work_dir else None)
        twins = seen.add((row.id, self._text(row)) for row in map(as_chat, rows))
        for row, twin in zip(map(as_chat, rows), twins, strict=True):
            like = f"as {twin[0]}, {twin[1]:.2f}" if twin else ""
            yield Dropped(row.id, "near duplicate", like) if twin else row

    def _text(self, row: Chat) -> str:
        return row.answer if self.on == "answer" else "\n".join(m.content for m in row.prompt)


def is_refusal(answer: str) -> bool:
    """Whether an answer refuses, or speaks of itself as an AI."""
    return bool(_REFUSAL.search(answer))


def is_loop(answer: str) -> bool:
    """Whether an answer says the same again and again."""
    answer_words = words(answer)
    # Runs of words, not single words: long answers repeat words without going round in circles.
    starts = range(len(answer_words) - _RUN + 1)
    runs = [tuple(answer_words[start : start + _RUN]) for start in starts]
    return len(answer_words) > _LOOP_WORDS and len(set(runs)) < len(runs) / 2


def is_unfinished(answer: str) -> bool:
    """Whether an answer seems to end within a sentence or a block of code."""
    text = answer.rstrip()
    # An odd number of fences leaves a block of code open.
    if text.count("```") % 2:
        return True
    # Points of a list and headings often end without punctuation.
    last_line = text.rsplit("\n", 1)[-1].strip()
    has_end = _LIST_OR_HEADING.match(last_line) or _ENDING.search(last_line)
    return len(text.split()) > _SHORT_WORDS and not has_end
