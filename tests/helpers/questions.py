"""Requests for tests."""

from typing import Any

from bezoar.chat.types import Message
from bezoar.llm.types import Request


def question(text: str, **more: Any) -> Request:
    """A request with one user message."""
    return Request((Message("user", text),), **more)


def questions(num: int, start: int = 0) -> list[Request]:
    """Different requests."""
    return [question(f"question {i}") for i in range(start, start + num)]
