"""What all schemes share: how text is drawn, seeded draws, and answers to prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bezoar.chat.types import Chat, Dropped, Filtered, Message, Messages
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.llm.types import Ask, Request, fault
from bezoar.model.spec import Sampling
from bezoar.rng import seed_for

INVENTION = Sampling(temperature=1.0, top_p=0.95)
"""For instructions, which should differ from one another."""


@dataclass(frozen=True)
class Draft:
    """A row without its answer. `asked` is put to the teacher in place of `prompt` where it is
    given."""

    id: str
    prompt: Messages
    meta: dict[str, Any] = field(default_factory=dict)
    asked: Messages = ()


def answer(
    drafts: Sequence[Draft], ask: Ask, how: Sampling, *, seed: int, retries: int, system: str = ""
) -> Filtered[Chat]:
    """The drafts with answers, in their order. `system` is said to the teacher and is not part of
    the rows.

    An answer that is empty or was cut at `max_tokens` is asked for again `retries` times with
    another seed; then the row is dropped as "empty" or "cut". A request that failed is not: its
    failure is final, or the stage is not finished.
    """
    said = (Message("system", system),) if system else ()
    rows: dict[int, Chat] = {}
    lost: dict[int, Dropped] = {}
    waiting = list(range(len(drafts)))
    for attempt in range(retries + 1):
        requests = [
            Request.sampled(
                (*said, *(drafts[i].asked or drafts[i].prompt)),
                how,
                seed_for(seed, drafts[i].id, attempt),
            )
            for i in waiting
        ]
        replies = ask(requests) if requests else []
        for index, reply in zip(waiting, replies, strict=True):
            draft = drafts[index]
            reason = fault(reply)
            if reason:
                lost[index] = Dropped(
                    draft.id,
                    reason,
                    reply.error or _short(f"{draft.prompt[-1].content} -> {reply.text}"),
                )
            else:
                rows[index] = Chat(
                    draft.id, (*draft.prompt, Message("assistant", reply.text.strip())), draft.meta
                )
        waiting = [
            i
            for i, reply in zip(waiting, replies, strict=True)
            if i not in rows and reply.finish != "error"
        ]
    order = range(len(drafts))
    return Filtered(
        [rows[i] for i in order if i in rows], [lost[i] for i in order if i not in rows]
    )


def _short(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + " ..."


def quote_answers(
    num: Estimate, prompt_tokens: float, how: Sampling, retries: int
) -> RequestEstimate:
    """Answers to `num` prompts of about so many tokens. Low: an eighth of `max_tokens` each; high:
    every retry is used up."""
    asked = Estimate(num.low, num.expected * (1 + 0.1 * (retries > 0)), num.high * (1 + retries))
    return RequestEstimate(
        asked,
        exactly(prompt_tokens),
        Estimate(how.max_tokens / 8, how.max_tokens / 3, how.max_tokens),
    )
