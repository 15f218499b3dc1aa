"""A model that criticises and revises (CnR, arXiv 2311.14543) at work: one round over many
answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bezoar.chat.types import Messages
from bezoar.data.critiques import UnreadRevision, parse_revision, revision_request
from bezoar.llm.types import Ask, Reply, Request, fault


@dataclass(frozen=True)
class Round:
    """What one round made of an answer; with a `failure` (failed, empty, cut, not both parts, no
    answer to revise) it is the old one."""

    critique: str
    answer: str
    failure: str = ""


def revisions(
    prompts: Sequence[Messages], answers: Sequence[str], ask: Ask, *, times: int, max_tokens: int
) -> Iterator[list[Round]]:
    """Up to `times` rounds, each over the answers of the one before; the last is the first that
    changes no answer."""
    now = list(answers)
    for _ in range(times):
        rounds = revise(prompts, now, ask, max_tokens=max_tokens)
        yield rounds
        before, now = now, [one.answer for one in rounds]
        if now == before:
            return


def revise(
    prompts: Sequence[Messages], answers: Sequence[str], ask: Ask, *, max_tokens: int
) -> list[Round]:
    """A round over `answers`, drawn greedily (ours; the paper's sampling is not known). An empty
    answer is not sent."""
    sent = [i for i, old in enumerate(answers) if old]
    requests = [
        Request(revision_request(prompts[i], answers[i]), max_tokens=max_tokens) for i in sent
    ]
    replies = dict(zip(sent, ask(requests) if requests else [], strict=True))
    return [
        _round(old, replies[i]) if i in replies else Round("", old, "no answer")
        for i, old in enumerate(answers)
    ]


def _round(old: str, reply: Reply) -> Round:
    found = parse_revision(reply.text)
    failure = fault(reply) or (found.why if isinstance(found, UnreadRevision) else "")
    return (
        Round("", old, failure)
        if isinstance(found, UnreadRevision) or failure
        else Round(found.critique, found.revision)
    )
