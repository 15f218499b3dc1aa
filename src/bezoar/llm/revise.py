"""A model that criticises and revises (CnR, arXiv 2311.14543): rounds over many answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bezoar.chat.types import Messages
from bezoar.data.critiques import UnreadRevision, parse_revision, revision_request
from bezoar.llm.types import Ask, Reply, Request, fault


@dataclass(frozen=True)
class Round:
    """What one round made of an answer; with a `failure`, which says why, it is the old one."""

    critique: str
    answer: str
    failure: str = ""


def revisions(
    prompts: Sequence[Messages], answers: Sequence[str], ask: Ask, *, times: int, max_tokens: int
) -> Iterator[list[Round]]:
    """Up to `times` rounds, each over the last one's answers, until none changes any more."""
    current = list(answers)
    for _ in range(times):
        rounds = revise(prompts, current, ask, max_tokens=max_tokens)
        yield rounds
        before, current = current, [done.answer for done in rounds]
        if current == before:
            return


def revise(
    prompts: Sequence[Messages], answers: Sequence[str], ask: Ask, *, max_tokens: int
) -> list[Round]:
    """A round, drawn greedily (the paper's sampling is not known). An empty answer is not sent."""
    sent = [i for i, answer in enumerate(answers) if answer]
    questions = [revision_request(prompts[i], answers[i]) for i in sent]
    requests = [Request(question, max_tokens=max_tokens) for question in questions]
    rounds = [Round("", answer, "no answer") for answer in answers]
    for i, reply in zip(sent, ask(requests) if requests else [], strict=True):
        rounds[i] = _round(answers[i], reply)
    return rounds


def _round(answer: str, reply: Reply) -> Round:
    failure, revision = fault(reply), parse_revision(reply.text)
    if isinstance(revision, UnreadRevision):
        return Round("", answer, failure or revision.why)
    return Round("", answer, failure) if failure else Round(revision.critique, revision.revision)
