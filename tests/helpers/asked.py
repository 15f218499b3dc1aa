"""A scripted teacher: a function from a request to a reply, which remembers what it was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bezoar.chat.types import Chat, Message
from bezoar.llm.types import Reply, Request


@dataclass
class Teacher:
    """An `Ask`: `rule` answers a request with text, or with a whole reply."""

    rule: Callable[[Request], str | Reply]
    seen: list[Request] = field(default_factory=list)

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.seen += requests
        answers = [self.rule(request) for request in requests]
        return [answer if isinstance(answer, Reply) else Reply(answer) for answer in answers]


FAILED = Reply(finish="error", error="the server answered 500")


def last(request: Request) -> str:
    return request.messages[-1].content


def chat(name: str, prompt: str, answer: str = "An answer.", **meta: object) -> Chat:
    return Chat(name, (Message("user", prompt), Message("assistant", answer)), meta)
