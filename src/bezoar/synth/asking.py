"""What all schemes share: how text is drawn, seeded draws, and answers to prompts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bezoar.chat.types import Chat, Dropped, Message, Messages, Sifted
from bezoar.io import content_hash
from bezoar.llm.quote import Calls, Range, exactly
from bezoar.llm.types import Ask, Reply, Request


@dataclass(frozen=True)
class Sampling:
    """How a text is drawn. The values of the papers are not known; these are ours."""

    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ValueError("temperature must be at least 0, top_p between 0 and 1, max_tokens at least 1")

    def request(self, messages: Messages, seed: int, *, prefill: str = "") -> Request:
        """One draw."""
        return Request(messages, self.temperature, self.top_p, self.max_tokens, prefill=prefill, seed=seed)


INVENTION = Sampling(temperature=1.0, top_p=0.95)
"""For instructions, which should differ from one another."""


def seed_of(*parts: int | str) -> int:
    """A number below 2^31 that depends on `parts` alone."""
    return int(content_hash(*parts), 16) % (1 << 31)


def draws(*parts: int | str) -> random.Random:
    """A generator of its own for the draws of one row."""
    return random.Random(content_hash(*parts))


@dataclass(frozen=True)
class Draft:
    """A row without its answer. `asked` is put to the teacher in place of `prompt` where it is given."""

    id: str
    prompt: Messages
    meta: dict[str, Any] = field(default_factory=dict)
    asked: Messages = ()


def answer(drafts: Sequence[Draft], ask: Ask, how: Sampling, *, seed: int, retries: int, system: str = "") -> Sifted[Chat]:
    """The drafts with answers, in their order. `system` is said to the teacher and is not part of the rows.

    An answer that is empty or was cut at `max_tokens` is asked for again `retries` times with another seed; then the row is
    dropped as "empty" or "cut". A request that failed is not: its failure is final, or the stage is not finished.
    """
    said = (Message("system", system),) if system else ()
    rows: dict[int, Chat] = {}
    lost: dict[int, Dropped] = {}
    waiting = list(range(len(drafts)))
    for attempt in range(retries + 1):
        requests = [how.request((*said, *(drafts[i].asked or drafts[i].prompt)), seed_of(seed, drafts[i].id, attempt)) for i in waiting]
        replies = ask(requests) if requests else []
        for index, reply in zip(waiting, replies, strict=True):
            draft = drafts[index]
            reason = fault(reply)
            if reason:
                lost[index] = Dropped(draft.id, reason, reply.error or _short(f"{draft.prompt[-1].content} -> {reply.text}"))
            else:
                rows[index] = Chat(draft.id, (*draft.prompt, Message("assistant", reply.text.strip())), draft.meta)
        waiting = [i for i, reply in zip(waiting, replies, strict=True) if i not in rows and reply.finish != "error"]
    order = range(len(drafts))
    return Sifted([rows[i] for i in order if i in rows], [lost[i] for i in order if i not in rows])


def fault(reply: Reply) -> str:
    """Why a reply cannot be used: "failed", "refused", "unreadable", "budget", "empty" or "cut"; "" when it can."""
    if reply.finish == "error":
        return "failed" if reply.passing else reply.failure
    if not reply.text.strip():
        return "empty"
    return "cut" if reply.finish == "length" else ""


def _short(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + " ..."


def quote_answers(num: Range, prompt_tokens: float, how: Sampling, retries: int) -> Calls:
    """Answers to `num` prompts of about so many tokens. Low: an eighth of `max_tokens` each; high: every retry is used up."""
    asked = Range(num.low, num.expected * (1 + 0.1 * (retries > 0)), num.high * (1 + retries))
    return Calls(asked, exactly(prompt_tokens), Range(how.max_tokens / 8, how.max_tokens / 3, how.max_tokens))
