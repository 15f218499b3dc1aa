"""Rows as the project speaks of them: messages, chats, comparisons, and what a step kept and
dropped."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from bezoar.errors import DataError, brief, first_line
from bezoar.io import Row, canonical

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """A call of a named function with JSON arguments."""

    name: str
    arguments: dict[str, Any]

    def __hash__(self) -> int:
        return hash((self.name, canonical(self.arguments)))


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Chat:
    """A conversation; `meta` carries its provenance (source, category, lineage, verdict) as JSON
    values."""

    id: str
    messages: Messages
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> Messages:
        """All messages before the last one where that is the assistant's, else all."""
        return (
            self.messages[:-1]
            if self.messages and self.messages[-1].role == "assistant"
            else self.messages
        )

    @property
    def answer(self) -> str:
        """The content of the last message where that is the assistant's, else the empty string."""
        return (
            self.messages[-1].content
            if self.messages and self.messages[-1].role == "assistant"
            else ""
        )

    def to_row(self) -> Row:
        """Columns `id`, `messages` (role, content), `meta` (JSON text)."""
        return {
            "id": self.id,
            "messages": _to_list(self.messages),
            "meta": json.dumps(self.meta, ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: Row) -> "Chat":
        """The inverse of `to_row`."""
        return cls(row["id"], _from_list(row["messages"]), _table(row["meta"]))


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt; `chosen` is the preferred one."""

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The preferred answer."""
        return self.chosen

    def swap(self) -> "Comparison":
        """The same pair in the other order."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def as_chat(self) -> Chat:
        """The prompt with the chosen answer."""
        return Chat(self.id, (*self.prompt, Message("assistant", self.chosen)), self.meta)

    def to_row(self) -> Row:
        """Columns `id`, `prompt`, `chosen`, `rejected` (lists of messages), `meta` (JSON text)."""
        return {
            "id": self.id,
            "prompt": _to_list(self.prompt),
            "chosen": [{"role": "assistant", "content": self.chosen, "tool_calls": ""}],
            "rejected": [{"role": "assistant", "content": self.rejected, "tool_calls": ""}],
            "meta": json.dumps(self.meta, ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: Row) -> "Comparison":
        """The inverse of `to_row`."""
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        return cls(row["id"], _from_list(row["prompt"]), chosen, rejected, _table(row["meta"]))


@dataclass(frozen=True)
class SampledAnswers:
    """Several answers to one prompt; `numbers` holds named numbers of each (rewards,
    log-probabilities), nan where unknown.

    None of them is the row's own `answer`.
    """

    id: str
    prompt: Messages
    answers: tuple[str, ...]
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    answer: ClassVar[str] = ""

    def to_row(self) -> Row:
        """Columns `id`, `prompt` (a list of messages), `answers` (texts), `numbers` and `meta`
        (JSON text)."""
        return {
            "id": self.id,
            "prompt": _to_list(self.prompt),
            "answers": list(self.answers),
            "numbers": json.dumps(self.numbers),
            "meta": json.dumps(self.meta, ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: Row) -> "SampledAnswers":
        """The inverse of `to_row`."""
        numbers = {name: tuple(values) for name, values in _table(row["numbers"]).items()}
        return cls(
            row["id"],
            _from_list(row["prompt"]),
            tuple(row["answers"]),
            numbers,
            _table(row["meta"]),
        )


AnyRow = Chat | Comparison | SampledAnswers


def _to_list(messages: Messages) -> list[Row]:
    return [
        {
            "role": m.role,
            "content": m.content,
            "tool_calls": json.dumps([c.__dict__ for c in m.tool_calls]) if m.tool_calls else "",
        }
        for m in messages
    ]


def _table(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a JSON {type(value).__name__} stands for a table")
    return value


def _from_list(rows: list[Row]) -> Messages:
    if not all(isinstance(r["content"], str) and r["role"] in get_args(Role) for r in rows):
        raise TypeError("a message has no text or no role")
    return tuple(
        Message(
            r["role"],
            r["content"],
            tuple(ToolCall(**c) for c in json.loads(r["tool_calls"] or "[]")),
        )
        for r in rows
    )


def row_to_item(row: Row) -> AnyRow:
    """The chat, comparison or answers that a Parquet row holds. DataError for a row that holds none
    of them."""
    try:
        if "answers" in row:
            return SampledAnswers.from_row(row)
        return Comparison.from_row(row) if "chosen" in row else Chat.from_row(row)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        shown = brief(f"{row.get('id')!r}", 60)
        raise DataError(
            f"row {shown}: it was not written by a stage ({first_line(error)}); run the stage that"
            " writes it again."
        ) from None


@dataclass(frozen=True)
class Dropped:
    """A row that was left out, and why: `reason` is one of a small set of words, `detail` is what a
    person reads."""

    id: str
    reason: str
    detail: str = ""


ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Filtered(Generic[ItemT]):
    """What a step kept and what it dropped: no row leaves without being counted."""

    rows: list[ItemT]
    dropped: list[Dropped] = field(default_factory=list)


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How many rows were dropped for each reason, most first."""
    return dict(Counter(item.reason for item in dropped).most_common())


def as_chats(rows: Iterable[AnyRow]) -> list[Chat]:
    """Chats as they are, comparisons with their chosen answer. DataError for sampled answers."""
    chats = []
    for row in rows:
        if isinstance(row, SampledAnswers):
            raise DataError(
                f"row {row.id}: it holds sampled answers and chats are needed; choose among them"
                " first (kind: best_of_n)."
            )
        chats.append(row.as_chat() if isinstance(row, Comparison) else row)
    return chats
