"""A model's answers to questions of several turns, at the temperatures of MT-Bench."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.chat.types import Message
from bezoar.data.questions import Question
from bezoar.llm.types import Ask, Request

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Turn:
    """One answer; `finish` is "error" for a failed request, whose `error` says why, "length" for
    one that was cut."""

    text: str
    finish: str = "stop"
    error: str = ""


def temperature(category: str) -> float:
    """FastChat's temperature of a category."""
    return TEMPERATURES.get(category, OTHER_TEMPERATURE)


def converse(
    questions: Sequence[Question], ask: Ask, *, max_tokens: int, seed: int
) -> list[list[Turn]]:
    """The answers to every turn, each turn asked of all questions at once with what was said
    before.

    After a failed turn the rest of its conversation fails too.
    """
    answers: list[list[Turn]] = [[] for _ in questions]
    for turn in range(max((len(q.turns) for q in questions), default=0)):
        live = [
            i
            for i, q in enumerate(questions)
            if turn < len(q.turns) and not any(t.finish == "error" for t in answers[i])
        ]
        requests = [_request(questions[i], answers[i], max_tokens, seed) for i in live]
        for i, reply in zip(live, ask(requests) if requests else [], strict=True):
            answers[i].append(Turn(reply.text, reply.finish, reply.error))
    for question, turns in zip(questions, answers, strict=True):
        turns += [Turn("", "error", "an earlier turn failed")] * (len(question.turns) - len(turns))
    return answers


def _request(question: Question, said: Sequence[Turn], max_tokens: int, seed: int) -> Request:
    messages = [Message("user", question.turns[0])]
    for turn, text in zip(said, question.turns[1:], strict=False):
        messages += [Message("assistant", turn.text), Message("user", text)]
    heat = temperature(question.category)
    return Request(
        tuple(messages), temperature=heat, max_tokens=max_tokens, seed=seed if heat else 0
    )


def spread(questions: Sequence[Question], limit: int | None) -> list[int]:
    """Indices of the first `limit` questions when the categories take turns, in the order of the
    file."""
    if limit is None or limit >= len(questions):
        return list(range(len(questions)))
    seen: dict[str, int] = {}
    rank = []
    for i, question in enumerate(questions):
        rank.append((seen.setdefault(question.category, 0), i))
        seen[question.category] += 1
    return sorted(i for _, i in sorted(rank)[:limit])
