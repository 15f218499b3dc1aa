"""Anthropic HH-RLHF: pairs of transcripts."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from bezoar.chat.types import Comparison, Dropped, Messages
from bezoar.data.rows import RowOrigin, text
from bezoar.data.source import Source
from bezoar.data.turns import checked_pair, split_turns, turn_problem
from bezoar.io import Row

_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class HHRLHF(Source[Comparison]):
    """Pairs of transcripts: columns chosen and rejected.

    The prompt is everything up to and including the last `\\n\\nAssistant:`, the answer what
    follows it, as in the DPO authors' code; turns lose white space at both ends. Rules for rows
    that occur in the published files, each counted: two turns of one speaker in a row in either
    transcript (the other speaker's words are inside a turn, so that joining them would teach the
    model to speak for the human), an empty answer on either side, an empty turn, no answer at the
    end, prompts that differ, and equal answers are dropped. A name inside a line (`... Human: ...`)
    is text and is kept. A text that does not begin with `\\n\\nHuman:` is no transcript: DataError.

    Source: arXiv 2204.05862
    Example: {kind: hh_rlhf, path: Anthropic/hh-rlhf, subset: helpful-base, limit: 1000}
    """

    kind: Literal["hh_rlhf"] = "hh_rlhf"
    subset_is: ClassVar[str] = "data_dir"
    shape = "comparisons"

    def read(self, row: Row, at: RowOrigin) -> Comparison | Dropped:
        chosen, rejected = (_transcript(row, name, at) for name in ("chosen", "rejected"))
        for messages in (chosen, rejected):
            if problem := turn_problem(messages):
                return Dropped(at.id, problem, at.text)
        if chosen[:-1] != rejected[:-1]:
            return Dropped(at.id, "prompts differ", at.text)
        meta = {"turns": len(chosen) // 2, **({"category": self.subset} if self.subset else {})}
        return checked_pair(chosen[:-1], (chosen[-1].content, rejected[-1].content), at, meta)


def _transcript(row: Row, name: str, at: RowOrigin) -> Messages:
    text(row, name, at)  # the type; the words are taken with the white space at their start
    head, *parts = _TURN.split(row[name] or "")
    if head.strip() or not parts or parts[0] != "Human":
        fault = f"the column {name!r} does not begin with '\\n\\nHuman:'"
        raise at.wrong(f"{fault}, so it is no HH-RLHF transcript; use another kind.")
    return split_turns(parts)
